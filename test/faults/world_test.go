package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/mesh"
)

var patience = flag.Duration("patience", 30*time.Second, "how long proxies may take to tell what they know: a little while rows are written")

// world is a mesh with a client, a server of many services and endpoints without a proxy.
type world struct {
	*mesh.Mesh
	t                       *testing.T
	client, server, far, gw *mesh.Workload
	texts                   map[string]string // configuration by row
}

// port is where the endpoints of a row listen; callers ask for 8080.
const firstPort = 20000

const service = `apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: APP}, ports: [{name: PROTOCOL, port: 8080, targetPort: PORT}]}
`

// newWorld is a mesh in which all rows are about to go wrong.
func newWorld(t *testing.T, rows []fault) *world {
	w := &world{Mesh: mesh.New(t, nil), t: t, texts: map[string]string{}}
	server := mesh.Spec{Name: "server-0", Owner: "server", ServiceAccount: "server", Labels: map[string]string{"app": "server"}}
	far := mesh.Spec{Name: "far-0", Owner: "far", NoProxy: true, Labels: map[string]string{"app": "far"}}
	w.Write("gateway.yaml", mesh.IngressGateway)
	for i := range rows {
		f, number := &rows[i], uint16(firstPort+i)
		port := mesh.Port{Name: fmt.Sprintf("p%d", i), Number: number}
		app := "nobody"
		switch {
		case f.app != nil:
			app, server.Ports = "server", append(server.Ports, port)
		case f.far != nil:
			app, far.Ports = "far", append(far.Ports, port)
		}
		protocol := "http"
		if f.protocol != "" {
			protocol = f.protocol
		}
		text := service
		if f.config != "" {
			text += "---\n" + f.config
		}
		w.texts[f.slug()] = strings.NewReplacer("NAME", f.slug(), "APP", app, "PROTOCOL", protocol, "PORT", fmt.Sprint(number)).Replace(text)
		w.Write(f.file(), w.texts[f.slug()])
	}
	all := w.Workloads(mesh.Spec{Name: "client-0", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}}, server, far, mesh.Gateway())
	w.client, w.server, w.far, w.gw = all[0], all[1], all[2], all[3]
	for i := range rows {
		switch f, number := &rows[i], uint16(firstPort+i); {
		case f.app != nil:
			w.serve(w.server.App(number).String(), f.app)
		case f.far != nil:
			w.serve(w.far.App(number).String(), f.far)
		}
	}
	w.Settle()
	return w
}

// serve accepts connections at an address until the test ends.
func (w *world) serve(at string, handle func(net.Conn)) {
	if isNobody(handle) {
		return
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		w.t.Fatal(err)
	}
	var mu sync.Mutex
	open, ended := map[net.Conn]bool{}, false
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if open[c] = true; ended {
				_ = c.Close()
			}
			mu.Unlock()
			wait.Go(func() {
				handle(c)
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	w.t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		ended = true
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wait.Wait()
	})
}

// why waits until both sides have told what they know, and is the story then.
func (w *world) why(f *fault, about string) (*apiv1.Story, error) {
	var got *apiv1.Story
	err := w.within(func() error {
		answer, err := w.API().Why(context.Background(), about, "", "", "", 20)
		if err != nil {
			return err
		}
		if len(answer.Silent) > 0 {
			return fmt.Errorf("silent: %v", answer.Silent)
		}
		if len(answer.Stories) == 0 {
			return errors.New("no story")
		}
		if got = &answer.Stories[0]; len(got.Hops) < f.hops() {
			return fmt.Errorf("%d of %d have told", len(got.Hops), f.hops())
		}
		return nil
	})
	return got, err
}

func (w *world) within(check func() error) error {
	end := time.Now().Add(*patience)
	for {
		err := check()
		if err == nil || time.Now().After(end) {
			return err
		}
		<-time.After(3 * time.Millisecond)
	}
}

// run injects each fault, and adds to the score.
func (w *world) run(rows []fault, s *score) {
	for i := range rows {
		f := &rows[i]
		w.Run(f.slug(), func(t *testing.T) {
			ask := get
			if f.ask != nil {
				ask = f.ask
			}
			got, err := w.why(f, ask(w, f))
			wrong := ""
			if err != nil {
				wrong = err.Error()
			} else {
				wrong = f.judge(got, w.texts[f.slug()])
			}
			if s.add(f, got, wrong); wrong != "" {
				t.Errorf("%s\n%s", wrong, tell(got))
			}
		})
	}
}

// tell is a story for who has to find out what is wrong with it.
func tell(s *apiv1.Story) string {
	if s == nil {
		return "nothing"
	}
	out := fmt.Sprintf("%d %s at %s, %s", s.Status, s.Cause, s.At, s.Unknown)
	for i := range s.Decided {
		out += fmt.Sprintf("\n  %+v", s.Decided[i])
	}
	for i := range s.Hops {
		h := &s.Hops[i]
		out += fmt.Sprintf("\n  %s %s: %d %s %s %s; of %d: %+v; %+v", h.Workload, h.Side, h.Status, h.Flags, h.Cause, h.Details, h.Attempts, h.Tries, h.Decisions)
	}
	return out
}

// get is a GET by the client.
func get(w *world, f *fault) string { return w.call(f, "GET", "/") }

// call is a request by the client.
func (w *world) call(f *fault, method, path string, headers ...string) string {
	id := "fault-" + f.slug()
	w.client.Do(method, "http://"+f.slug()+":8080"+path, nil, append(headers, "x-request-id: "+id)...)
	return id
}
