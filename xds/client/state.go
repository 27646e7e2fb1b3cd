package client

import (
	"slices"
	"time"
)

// State is what is known of the connection and of what was received.
type State struct {
	// Connected is true from the first response on a stream until its end.
	Connected bool
	Since     time.Time // since when it is, or is not
	LastError error     // why the last attempt or stream ended; kept while connected
	// ControlPlane is the identifier in the last response.
	ControlPlane string
	// Synced is true when everything subscribed to was answered and accepted at least
	// once, or is held from before.
	Synced bool
	Types  []TypeState // in the order of subscription
}

// TypeState is the part of the State that is about one type.
type TypeState struct {
	TypeURL  string
	Wildcard bool
	Names    int      // subscribed to by name
	Held     int      // resources accepted
	Version  string   // the server's, of the last response accepted
	Waiting  []string // names that were not answered yet
	LastNACK *NACK    // the last rejection, whether it still matters or not
}

// NACK is a rejection.
type NACK struct {
	Version string // the server's, of the response
	// Names are the resources that were refused and have not been accepted, or removed, since.
	Names   []string
	Message string
	Time    time.Time
}

// State is the current state, and a channel that is closed when it changes.
func (c *Client) State() (State, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	st := c.state
	st.Synced = true
	for _, s := range c.m.subs {
		t := TypeState{TypeURL: s.typeURL, Wildcard: s.wildcard, Names: len(s.names), Held: len(s.held), Version: s.version}
		for n, told := range s.names {
			if _, held := s.held[n]; !told && !held {
				t.Waiting = append(t.Waiting, n)
			}
		}
		slices.Sort(t.Waiting)
		if n, ok := c.nacks[s.typeURL]; ok {
			t.LastNACK = &n
		}
		st.Synced = st.Synced && (!c.m.due(s) || len(t.Waiting) == 0 && (!s.wildcard || s.answered || len(s.held) > 0))
		st.Types = append(st.Types, t)
	}
	return st, c.changed
}

// notify tells who waits for a change. c.mu is held.
func (c *Client) notify() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}
