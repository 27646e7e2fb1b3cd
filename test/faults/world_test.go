package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/mesh"
)

var patience = flag.Duration("patience", 30*time.Second, "how long proxies may take to tell what they know: a little while rows are written")

// world is a mesh with a client, a server of many services and endpoints without a proxy.
type world struct {
	*mesh.Mesh
	t          *testing.T
	rows       []fault
	homes      map[string]*mesh.Workload // by app
	client, gw *mesh.Workload
	memory     atomic.Int64       // in per cent, that a proxy believes to use beside 80
	texts      map[string]string  // configuration by file
	marks      map[string][]place // of what is wrong in it, by row
}

// port is where the endpoints of a row listen; callers ask for 8080.
const firstPort = 20000

const service = `apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: APP}, ports: [{name: PROTOCOL, port: 8080, targetPort: PORT}]}
`

// common is what several rows need.
const commonFile, common = "common.yaml", providers + "---\n" + `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {selector: {matchLabels: {app: strict}}, mtls: {mode: STRICT}}
---
` + placesConfig

// newWorld is a mesh in which all rows are about to go wrong.
func newWorld(t *testing.T, rows []fault) *world {
	w := &world{Mesh: mesh.New(t, nil), t: t, texts: map[string]string{}, marks: map[string][]place{}, homes: map[string]*mesh.Workload{}, rows: rows}
	silent := netip.MustParseAddrPort(w.serve("127.0.0.1:0", silence))
	specs := []mesh.Spec{{Name: "client-0", Proxy: impatient(silent)}, {Name: "server-0"}, {Name: "guarded-0"}, {Name: "strict-0"}, {Name: "far-0", NoProxy: true}}
	specs = append(specs, places(&w.memory)...)
	for i := range specs {
		s := &specs[i]
		app := strings.TrimSuffix(s.Name, "-0")
		s.Owner, s.ServiceAccount, s.Labels = app, app, map[string]string{"app": app}
	}
	w.Write("gateway.yaml", mesh.IngressGateway)
	w.note(commonFile, common)
	for i := range rows {
		f := &rows[i]
		for j := range specs {
			if specs[j].Labels["app"] == f.home() {
				specs[j].Ports = append(specs[j].Ports, mesh.Port{Name: fmt.Sprintf("p%d", i), Number: number(i)})
			}
		}
		text := service
		if f.target != "" {
			text = strings.Replace(text, "targetPort: PORT", f.target, 1)
		}
		if f.config != "" {
			text += "---\n" + f.config
		}
		w.write(f, text)
	}
	all := w.Workloads(append(specs, mesh.Gateway())...)
	for i := range specs {
		w.homes[specs[i].Owner] = all[i]
	}
	w.client, w.gw = all[0], all[len(specs)]
	for i := range rows {
		if f := &rows[i]; f.home() != "" {
			handle := f.app
			if handle == nil {
				handle = f.far
			}
			w.serve(w.homes[f.home()].App(number(i)).String(), handle)
		}
	}
	w.Settle()
	return w
}

// number is the port of a row's endpoints.
func number(row int) uint16 { return uint16(firstPort + row) }

// row is the place of a row.
func (w *world) row(f *fault) int {
	return slices.IndexFunc(w.rows, func(o fault) bool { return o.name == f.name })
}

// filled is a text of a row's with what it stands for.
func (w *world) filled(f *fault, text string) string {
	return strings.NewReplacer("NAME", f.slug(), "APP", cmp.Or(f.home(), "nobody"), "PROTOCOL", cmp.Or(f.protocol, "http"), "PORT", fmt.Sprint(number(w.row(f)))).Replace(text)
}

// at is where a row's workload is reached, past the client's proxy.
func (w *world) at(f *fault) netip.AddrPort {
	return netip.AddrPortFrom(w.homes[f.home()].IP(), number(w.row(f)))
}

// serve accepts connections at an address, which it returns, until the test ends.
func (w *world) serve(at string, handle func(net.Conn)) string {
	switch {
	case is(handle, nobody):
		return at
	case is(handle, unaccepting):
		mesh.Deaf(w.t, netip.MustParseAddrPort(at))
		return at
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		w.T.Fatal(err)
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
	return l.Addr().String()
}

// lastOf begins what is asked about by the workload whose call it was.
const lastOf = "from "

// why waits until both sides have told what they know, and is the story then.
func (w *world) why(f *fault, about string) (*apiv1.Story, error) {
	var got *apiv1.Story
	err := w.within(func() error {
		id, from := about, ""
		if last, ok := strings.CutPrefix(about, lastOf); ok {
			id, from = "", last
		}
		answer, err := w.API().Why(context.Background(), id, "", from, "", 20)
		if err != nil {
			return err
		}
		if len(answer.Silent) > 0 {
			return fmt.Errorf("silent: %v", answer.Silent)
		}
		if len(answer.Stories) == 0 {
			return errors.New("no story")
		}
		got = &answer.Stories[0]
		if side := f.told(got); side != "" {
			return fmt.Errorf("the %s has not told", side)
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

// run injects a fault, and adds to the score.
func (w *world) run(t *testing.T, f *fault, s *score) {
	about := ""
	switch {
	case f.apart != nil:
		w, about = f.apart(t, f)
	case f.ask != nil:
		about = f.ask(w, f)
	default:
		about = get(w, f)
	}
	got, err := w.why(f, about)
	wrong := ""
	if err != nil {
		wrong = err.Error()
	} else {
		wrong = f.judge(got, w.texts)
	}
	must(t, f.sound(w.marks[f.name]))
	if s.add(f, got, wrong, w.texts); wrong != "" {
		t.Errorf("%s\n%s", wrong, tell(got))
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

// dial connects to where a row's service is for the client, and knows from which address even if nothing comes of it.
func (w *world) dial(f *fault) (c net.Conn, from string, err error) {
	at, err := w.client.Virtual(f.slug())
	if err != nil {
		w.T.Fatal(err)
	}
	return w.dialAt(netip.AddrPortFrom(at, 8080))
}

func (w *world) dialAt(to netip.AddrPort) (c net.Conn, from string, err error) {
	return w.dialFrom(netip.MustParseAddr("127.0.0.1"), to)
}

// dialFrom connects from an address. Whatever is never answered ends with the patience.
func (w *world) dialFrom(source netip.Addr, to netip.AddrPort) (c net.Conn, from string, err error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		control := raw.Control(func(fd uintptr) {
			var a syscall.Sockaddr
			if err = syscall.Bind(int(fd), &syscall.SockaddrInet4{Addr: source.As4()}); err == nil {
				a, err = syscall.Getsockname(int(fd))
			}
			if err == nil {
				from = netip.AddrPortFrom(source, uint16(a.(*syscall.SockaddrInet4).Port)).String()
			}
		})
		return errors.Join(control, err)
	}}
	if c, err = d.Dial("tcp", to.String()); err == nil {
		err = c.SetDeadline(time.Now().Add(*patience))
	}
	return c, from, err
}

// send is the beginning of what the client's program does with a row's service.
func (w *world) send(f *fault, text string) net.Conn {
	c, _, err := w.dial(f)
	if err != nil {
		w.T.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		w.T.Fatal(err)
	}
	return c
}

// raw sends, reads the beginning of what comes, and is the address of the client.
func (w *world) raw(f *fault, text string) string {
	c, from, err := w.dial(f)
	if err != nil {
		return from
	}
	defer c.Close()
	_, _ = io.WriteString(c, text)
	_, _ = c.Read(make([]byte, 1))
	return from
}

// hold makes a request that stays under way until what is returned is called.
func (w *world) hold(f *fault, h *holder) func() {
	c := w.send(f, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	<-h.came
	return func() { _ = c.Close() }
}

// underWay waits until the client's proxy has a request.
func (w *world) underWay(f *fault) {
	w.Eventually("a request is under way", func() error {
		var info struct{ Active int }
		if err := json.Unmarshal(w.client.Admin("GET", "/server_info").Body, &info); err != nil || info.Active < 1 {
			return fmt.Errorf("%d are, %w", info.Active, err)
		}
		return nil
	})
}
