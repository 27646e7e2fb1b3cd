package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// secretServers are the servers that are asked for secrets besides the control plane, as an agent on the same machine is:
// each has a client of its own. The publisher's lock guards it.
type secretServers struct {
	wanted  []state.SecretName
	clients map[state.Server]*client.Client
	changed chan struct{}
}

// followSecrets subscribes to the secrets that are wanted now, at whoever has them.
func (s *publisher) followSecrets(wanted []state.SecretName) {
	x := &s.secrets
	if slices.Equal(wanted, x.wanted) {
		return
	}
	of := func(list []state.SecretName) map[state.Server][]string {
		m := map[state.Server][]string{}
		for _, n := range list {
			m[n.From] = append(m[n.From], n.Name)
		}
		return m
	}
	before, now := of(x.wanted), of(wanted)
	for from := range now {
		if from != (state.Server{}) && x.clients[from] == nil {
			x.clients[from] = s.secretClient(from)
		}
	}
	for from := range maps.Keys(merge(before, now)) {
		c := x.clients[from]
		if from == (state.Server{}) {
			c = s.p.xds
		}
		if c != nil {
			s.change(c, resource.SecretType, from, before[from], now[from])
		}
		if now[from] == nil {
			delete(x.clients, from)
		}
	}
	x.wanted = wanted
	signal(x.changed)
}

func merge[K comparable, V any](a, b map[K]V) map[K]V {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

func (s *publisher) secretClient(from state.Server) *client.Client {
	return client.New(client.Options{Node: s.p.nodeProto, Log: s.p.o.Log.With("secrets", from.String()), SotW: from.SotW, Secrets: true,
		Apply: func(_ context.Context, u client.Update) error { return s.applyFrom(from, u) },
		Dial: func(context.Context) (client.Conn, error) {
			target := from.Target
			if from.Cluster != "" {
				s.mu.Lock()
				var err error
				target, err = s.builder.SecretServer(from.Cluster)
				s.mu.Unlock()
				if err != nil {
					return nil, err
				}
			}
			if !strings.HasPrefix(target, "unix:") {
				return nil, errors.New("secrets come by Unix sockets only")
			}
			c, err := grpc.NewClient("passthrough:///"+target, append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
			if err != nil {
				return nil, fmt.Errorf("asking for secrets: %w", err)
			}
			return c, nil
		}})
}

// askForSecrets runs the clients there are.
func (s *publisher) askForSecrets(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	running := map[*client.Client]context.CancelFunc{}
	defer func() {
		for _, end := range running {
			end()
		}
	}()
	for {
		s.mu.Lock()
		current := map[*client.Client]bool{}
		for _, c := range s.secrets.clients {
			current[c] = true
			if running[c] == nil {
				mine, end := context.WithCancel(ctx)
				running[c] = end
				all.Go(func() { _ = c.Run(mine) })
			}
		}
		s.mu.Unlock()
		for c, end := range running {
			if !current[c] {
				end()
				delete(running, c)
			}
		}
		select {
		case <-s.secrets.changed:
		case <-ctx.Done():
			return nil
		}
	}
}
