package kubewatch

import (
	"maps"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
)

// silence is how long a watch may say nothing. An API server that sends bookmarks sends one a minute (Kubernetes 1.17 and later, from its
// watch cache), so that quiet and deaf can be told apart; of one that never sent any it is not known.
const silence = 3 * time.Minute

// hear notes that a watch said something.
func (s *Server) hear(kind string, bookmark bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bookmarks = s.bookmarks || bookmark
	s.heard[kind] = s.now()
	if since, was := s.silent[kind]; was {
		delete(s.silent, kind)
		s.log.Info("the API server tells of a kind again", "kind", kind, "after", s.now().Sub(since).Round(time.Second))
	}
}

// read notes that everything there is was read: a watch that was silent is so still.
func (s *Server) read(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, is := s.silent[kind]; !is {
		s.heard[kind] = s.now()
	}
	delete(s.reread, kind)
}

// rereads reports whether all there is of a kind has to be read anew, because its watch is silent.
func (s *Server) rereads(kind string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reread[kind]
}

// Silent are the kinds whose watches say nothing although the API server answers, and since when. They are read as a whole every few
// minutes instead.
func (s *Server) Silent() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.silent)
}

// guarded is a watch that is ended when it is silent.
type guarded struct {
	watch.Interface
	s       *Server
	kind    string
	started time.Time
	timer   *time.Timer
}

func (s *Server) guard(kind string, w watch.Interface) watch.Interface {
	g := &guarded{Interface: w, s: s, kind: kind, started: s.now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.timer = time.AfterFunc(silence, g.check)
	return g
}

func (g *guarded) Stop() {
	g.timer.Stop()
	g.Interface.Stop()
}

func (g *guarded) check() {
	s := g.s
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.heard[g.kind]
	if last.Before(g.started) { // what an earlier watch said is no word of this one
		last = g.started
	}
	if left := silence - s.now().Sub(last); left > 0 {
		g.timer.Reset(left)
		return
	}
	if !s.bookmarks {
		g.timer.Reset(silence)
		return
	}
	if _, known := s.silent[g.kind]; !known {
		s.silent[g.kind] = last
		s.log.Warn("the API server answers but tells nothing of a kind: all of it is read every few minutes instead, so that changes are seen late", "kind", g.kind, "silent", s.now().Sub(last).Round(time.Second))
	}
	s.reread[g.kind] = true
	g.Interface.Stop()
}

// outdated is what a watch is answered in place of the API server, so that everything is read.
func outdated() error { return apierrors.NewResourceExpired("the watch was silent") }
