package pod

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/supervise"
)

const (
	// firstCheck doubles to slowestCheck while a pod is not ready: most programs listen
	// within 50 ms.
	firstCheck   = 20 * time.Millisecond
	slowestCheck = 250 * time.Millisecond
	// steadyCheck is how often a ready pod's proxy is asked. Ends of processes are known at
	// once; this finds a proxy that hangs, at a cost of some 50 µs.
	steadyCheck = 5 * time.Second
	// proxyFailures in a row take a ready pod out of service: on a busy machine one answer
	// comes too late, and to take all pods out would make it worse.
	proxyFailures = 3
	// proxyPatience is how long a proxy may take to get ready before people are told what it
	// waits for; it takes some 100 ms, on a machine that starts a hundred of them a second.
	proxyPatience = 3 * time.Second
	// patience is how long a program may take to listen before it is told where it should,
	// and before the ports on which it does listen are enough. Ports that no container
	// declares are waited for as long as a program without ports must live.
	patience = 10 * time.Second
	// lived is how long a program without ports must live to count as ready.
	lived = time.Second
	// dialTime bounds one attempt to connect, on this machine.
	dialTime = time.Second
)

// probeState is where a readinessProbe is.
type probeState struct {
	next  time.Time
	good  int // successes in a row
	bad   int
	ready bool
}

// watch keeps the pod's readiness true until ctx ends.
func (p *pod) watch(ctx context.Context) {
	pause := firstCheck
	for {
		why, again := p.check(ctx)
		if ctx.Err() != nil {
			return
		}
		p.setReady(ctx, why)
		if why != "" {
			again = cmp.Or(min(again, pause), pause)
			pause = min(2*pause, slowestCheck)
		}
		t := time.NewTimer(cmp.Or(again, steadyCheck))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-p.kick:
			t.Stop()
			pause = firstCheck
		case <-t.C:
		}
	}
}

// setReady publishes the pod's readiness. Others are replaced by a pod only once every
// proxy knows it.
func (p *pod) setReady(ctx context.Context, why string) {
	p.mu.Lock()
	before, ready := p.ready, why == ""
	p.ready, p.message = ready, why
	if !ready {
		p.settled = false
	}
	p.mu.Unlock()
	p.write()
	switch {
	case before == ready:
	case ready:
		ctx, p.unsettle = context.WithCancel(ctx)
		p.settling.Go(func() { p.settle(ctx) })
	default:
		p.unsettle()
		p.rt.wakeUp()
	}
}

func (p *pod) settle(ctx context.Context) {
	p.rt.settle(ctx, p, Healthy)
	p.mu.Lock()
	if ctx.Err() != nil {
		p.mu.Unlock()
		return
	}
	p.settled = true
	p.mu.Unlock()
	if p.join != nil {
		p.join.ready()
	}
	p.rt.wakeUp()
}

// check says what keeps the pod from being ready ("": nothing), and after how long it
// must be asked again (0: no hurry).
func (p *pod) check(ctx context.Context) (why string, again time.Duration) {
	p.mu.Lock()
	phase := p.proxy.Phase
	p.mu.Unlock()
	if phase != supervise.Running {
		return "its proxy is " + string(phase), 0
	}
	if err := p.proxyReady(ctx); err != nil {
		p.proxyBad++
		why := fmt.Sprintf("its proxy is not ready: %v", err)
		switch {
		case !p.ready:
			return why, 0
		case p.proxyBad >= proxyFailures:
			p.say("out of service: %s", why)
			return why, 0
		}
		again = slowestCheck
	} else {
		p.proxyBad = 0
	}
	for _, g := range p.programs {
		w, next := p.checkProgram(ctx, g)
		if next > 0 {
			again = min(cmp.Or(again, next), next)
		}
		why = cmp.Or(why, w)
	}
	return why, again
}

func (p *pod) proxyReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return p.place.ProxyReady(ctx)
}

func (p *pod) checkProgram(ctx context.Context, g *program) (why string, again time.Duration) {
	p.mu.Lock()
	state, started := g.state, g.started
	p.mu.Unlock()
	if state.Phase != supervise.Running {
		if state.Last != "" {
			return p.containerPrefix(g) + state.Last, 0
		}
		return g.Container.Name + " is not running", 0
	}
	age := time.Since(started)
	if g.Container.Ready != nil {
		return p.checkProbe(ctx, g, g.Container.Ready, age)
	}
	if len(g.Container.Ports) == 0 {
		if left := lived - age; left > 0 {
			return g.Container.Name + " has just been started", left
		}
		return "", 0
	}
	var missing, hoped []string // hoped for: only a Service says so
	declared := 0
	for _, port := range g.Container.Ports {
		if !port.Derived {
			declared++
		}
		switch number := strconv.Itoa(int(port.Number)); {
		case p.accepts(ctx, g, port.Number):
		case port.Derived:
			hoped = append(hoped, number)
		default:
			missing = append(missing, number)
		}
	}
	why = "accepts no connections on port " + strings.Join(slices.Concat(missing, hoped), ", ")
	switch {
	case len(missing)+len(hoped) == 0:
		return "", 0
	case age < patience && len(missing) > 0:
		return why, 0
	case age < lived:
		return why, lived - age
	case age < patience:
		return "", slowestCheck
	}
	if len(missing) > 0 || p.assigned(g) != "" {
		p.complain(g, why)
	}
	if len(missing) > 0 && len(missing) == declared {
		return why, 0
	}
	return "", 0 // what was declared in vain is no reason to serve nothing
}

// accepts remembers a success until the program is started again: connecting to a program
// all the time would fill its log.
func (p *pod) accepts(ctx context.Context, g *program, port uint16) bool {
	p.mu.Lock()
	known, started := g.accepted[port], g.started
	p.mu.Unlock()
	if known {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := p.place.Dial(ctx, port)
	if err != nil {
		return false
	}
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if g.started.Equal(started) {
		g.accepted[port] = true
	}
	return true
}

// complain says once per start that a program listens elsewhere.
func (p *pod) complain(g *program, why string) {
	p.mu.Lock()
	told, pid := g.complain, g.state.Pid
	g.complain = true
	p.mu.Unlock()
	if told {
		return
	}
	text := p.containerPrefix(g) + why
	var at []string
	for _, a := range p.place.Listening(pid) {
		at = append(at, a.String())
	}
	if len(at) > 0 {
		text += "; it listens on " + strings.Join(at, ", ")
	}
	p.say("%s%s", text, p.remedy(g))
}

// checkProbe asks the readinessProbe when its time has come.
func (p *pod) checkProbe(ctx context.Context, g *program, r *plan.Probe, age time.Duration) (why string, again time.Duration) {
	if left := r.Delay - age; left > 0 {
		return "waits for the readiness probe's initial delay", left
	}
	// From here on only this goroutine uses the state, except for a restart.
	p.mu.Lock()
	s, started := g.probe, g.started
	p.mu.Unlock()
	now := time.Now()
	period := r.Period
	if !s.ready {
		period = min(period, slowestCheck) // a person waits
	}
	if left := s.next.Sub(now); left > 0 {
		period = left
	} else {
		if err := p.probe(ctx, r); err != nil {
			s.good, s.bad, why = 0, s.bad+1, err.Error()
			s.ready = s.ready && s.bad < r.Failure
		} else {
			s.bad, s.good = 0, s.good+1
			s.ready = s.ready || s.good >= r.Success
		}
		s.next = now.Add(period)
		p.mu.Lock()
		if g.started.Equal(started) {
			g.probe = s
		}
		p.mu.Unlock()
	}
	if s.ready {
		return "", period
	}
	return "readiness probe: " + cmp.Or(why, "not yet"), period
}

func (p *pod) probe(ctx context.Context, r *plan.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	if r.HTTP == nil {
		c, err := p.place.Dial(ctx, r.Port)
		if err != nil {
			return err
		}
		return c.Close()
	}
	return httpProbe(ctx, r, p.place.Dial)
}

// httpProbe sends one request over a connection of its own. Kubernetes takes 200 to 399.
func httpProbe(ctx context.Context, r *plan.Probe, dial func(context.Context, uint16) (net.Conn, error)) error {
	if strings.EqualFold(string(r.HTTP.Scheme), "https") {
		return errors.New("scheme HTTPS is not asked here")
	}
	c, err := dial(ctx, r.Port)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	path := r.HTTP.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	req.Header.Set("User-Agent", "kube-probe/weir")
	for _, h := range r.HTTP.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			req.Host = h.Value
		} else {
			req.Header.Add(h.Name, h.Value)
		}
	}
	if err := req.Write(c); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("GET %s answers %s", path, resp.Status)
	}
	return nil
}
