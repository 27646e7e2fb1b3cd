package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/state"
)

// Ready is nil when the certificate is held and configuration is live. It is
// admin.Proxy, like all that follows.
func (p *Proxy) Ready() error {
	if p.draining.Load() {
		return errors.New("draining: it takes no new connections")
	}
	if p.leaving.Load() {
		return errors.New("draining: clients are asked to go elsewhere")
	}
	if p.id != nil && p.id.Current() == nil {
		if s := p.id.Status(); s.LastError != "" {
			return fmt.Errorf("no certificate yet: %s", s.LastError)
		}
		return errors.New("no certificate yet")
	}
	if p.xds != nil {
		if s, _ := p.xds.State(); !s.Synced && !p.ready.Load() && !p.state.givesUp() {
			if s.LastError != nil {
				return fmt.Errorf("no configuration yet: %w", s.LastError)
			}
			return errors.New("no configuration yet")
		}
	}
	if p.served() {
		return nil
	}
	err := p.state.missing(p.ready.Load())
	if err == nil {
		p.ready.Store(true)
	}
	return err
}

// served reports whether the proxy has been ready, and what it waits for since then is on
// demand.
func (p *Proxy) served() bool { return p.ready.Load() && p.state.current().View() != nil }

// Stats writes the metrics of all workers.
func (p *Proxy) Stats(_ context.Context, w io.Writer) error {
	if err := p.totals().WritePrometheus(w); err != nil {
		return err
	}
	ready := 0
	if p.Ready() == nil {
		ready = 1
	}
	_, err := fmt.Fprintf(w, "# HELP istio_build Version of the proxy.\n# TYPE istio_build gauge\nistio_build{component=\"proxy\",tag=%q} 1\n"+
		"# HELP weir_proxy_ready Whether certificate and configuration are there.\n# TYPE weir_proxy_ready gauge\nweir_proxy_ready %d\n", p.o.Version, ready)
	if err == nil && p.logs != nil {
		_, err = fmt.Fprintf(w, "# HELP weir_proxy_log_dropped_total Access log lines that found no room.\n# TYPE weir_proxy_log_dropped_total counter\nweir_proxy_log_dropped_total %d\n", p.logs.Dropped.Load())
	}
	if err == nil {
		err = p.writeRefusals(w)
	}
	if err == nil {
		err = p.writeOnDemand(w)
	}
	if err == nil {
		err = p.writeHosts(w)
	}
	if err == nil {
		err = p.writeBreakers(w)
	}
	if err == nil && p.sender != nil {
		_, err = fmt.Fprintf(w, "# HELP weir_proxy_observe_streams_total Observe streams that were opened.\n# TYPE weir_proxy_observe_streams_total counter\nweir_proxy_observe_streams_total %d\n"+
			"# HELP weir_proxy_observe_reports_total Reports that the control plane acknowledged.\n# TYPE weir_proxy_observe_reports_total counter\nweir_proxy_observe_reports_total %d\n",
			p.sender.Stats.Streams.Load(), p.sender.Stats.Reports.Load())
	}
	if err == nil {
		err = p.writeExpirations(w)
	}
	return err
}

func secured(e *cluster.Endpoint) bool {
	t := e.Transport.Load()
	return t != nil && t.TCP != nil
}

// Identity answers /identity: the workload's own certificate, and those of configuration
// that listeners show.
func (p *Proxy) Identity() any {
	var v struct {
		*identity.Status
		Listeners []shown `json:"listeners,omitempty"`
	}
	if p.id != nil {
		s := p.id.Status()
		v.Status = &s
	}
	v.Listeners = p.shown()
	return v
}

// shown is a certificate that a listener shows.
type shown struct {
	Listener   string    `json:"listener"`
	Subject    string    `json:"subject"`
	Names      []string  `json:"names,omitempty"`
	Serial     string    `json:"serial"`
	ValidFrom  time.Time `json:"validFrom"`
	ValidUntil time.Time `json:"validUntil"`
}

func (p *Proxy) shown() (all []shown) {
	for l := range p.state.current().Listeners() {
		if l.Config == nil {
			continue
		}
		seen := map[string]bool{} // chains of one listener show the same
		for _, c := range append(slices.Clone(l.Config.Chains), l.Config.Default) {
			if c == nil || c.TLS == nil {
				continue
			}
			for _, x := range c.TLS.Leaves() {
				if serial := x.SerialNumber.Text(16); !seen[serial] {
					seen[serial] = true
					all = append(all, shown{l.Name, x.Subject.String(), x.DNSNames, serial, x.NotBefore, x.NotAfter})
				}
			}
		}
	}
	return all
}

// writeExpirations writes until when certificates are good.
func (p *Proxy) writeExpirations(w io.Writer) error {
	const name = "weir_proxy_certificate_expiration_timestamp_seconds"
	if _, err := fmt.Fprintf(w, "# HELP %[1]s Until when a certificate is good: the workload's own (listener empty), and those that listeners show.\n# TYPE %[1]s gauge\n", name); err != nil {
		return err
	}
	line := func(listener, serial string, until time.Time) error {
		_, err := fmt.Fprintf(w, "%s{listener=%q,serial=%q} %d\n", name, listener, serial, until.Unix())
		return err
	}
	if p.id != nil {
		if s := p.id.Status(); s.Serial != "" {
			if err := line("", s.Serial, s.ValidUntil); err != nil {
				return err
			}
		}
	}
	for _, c := range p.shown() {
		if err := line(c.Listener, c.Serial, c.ValidUntil); err != nil {
			return err
		}
	}
	return nil
}

func (p *Proxy) clusters() any {
	type endpoint struct {
		Address  string `json:"address"`
		TLS      bool   `json:"tls"`
		Workload string `json:"workload,omitempty"`
		Active   int32  `json:"active"`
	}
	type view struct {
		Name        string     `json:"name"`
		Version     string     `json:"version,omitempty"`
		Service     string     `json:"service,omitempty"`
		Endpoints   []endpoint `json:"endpoints"`
		Connections int32      `json:"connections"`
		Pending     int32      `json:"pending"`
		Requests    int32      `json:"requests"`
	}
	out := []view{}
	for c := range p.state.current().Clusters() {
		v := view{Name: c.Name, Version: c.Version, Service: c.Service.Host, Endpoints: []endpoint{},
			Connections: c.Limits.Connections.Load(), Pending: c.Limits.Pending.Load(), Requests: c.Limits.Requests.Load()}
		for _, e := range c.Endpoints {
			v.Endpoints = append(v.Endpoints, endpoint{address(e), secured(e), e.Workload.Name, e.Active.Load()})
		}
		out = append(out, v)
	}
	return out
}

func address(e *cluster.Endpoint) string {
	if e.Path != "" {
		return "unix://" + e.Path
	}
	return e.Addr.String()
}

func (p *Proxy) listeners() any {
	type chain struct {
		Name  string `json:"name,omitempty"`
		Match any    `json:"match"`
		TLS   bool   `json:"tls"`
	}
	type view struct {
		Name        string   `json:"name"`
		Version     string   `json:"version,omitempty"`
		Direction   string   `json:"direction"`
		Address     string   `json:"address"`
		Bound       []string `json:"bound"`
		Routes      []string `json:"routes,omitempty"`
		Live        bool     `json:"live"`
		Connections int64    `json:"connections"`
		Chains      []chain  `json:"chains"`
	}
	p.state.mu.Lock()
	active := p.state.active
	p.state.mu.Unlock()
	out := []view{}
	for l := range p.state.current().Listeners() {
		if l.Config == nil {
			out = append(out, view{Name: l.Name, Version: l.Version, Bound: []string{}})
			continue
		}
		v := view{Name: l.Name, Version: l.Version, Direction: l.Config.Direction.String(), Address: l.Config.Address.String(), Bound: []string{},
			Routes: l.Routes, Live: active[l.Name] == l, Connections: p.group.Connections(l.Name)}
		for _, b := range l.Config.Binds {
			if at, ok := p.group.Local(b); ok {
				v.Bound = append(v.Bound, at.String())
			}
		}
		for _, c := range l.Config.Chains {
			v.Chains = append(v.Chains, chain{c.Name, c.Match, c.TLS != nil})
		}
		out = append(out, v)
	}
	return out
}

// State answers /state: what is decided by, object by object.
func (p *Proxy) State() any {
	type entry struct {
		Name     string   `json:"name,omitempty"`
		Match    any      `json:"match"`
		Clusters []string `json:"clusters,omitempty"`
		Redirect bool     `json:"redirect,omitempty"`
		Direct   int      `json:"direct,omitempty"`
		Timeout  string   `json:"timeout,omitempty"`
		Fault    any      `json:"fault,omitempty"`
		Object   string   `json:"object,omitempty"`
		At       string   `json:"at,omitempty"`
	}
	type host struct {
		Name    string   `json:"name"`
		Domains []string `json:"domains"`
		Routes  []entry  `json:"routes"`
	}
	type table struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
		Hosts   []host `json:"hosts"`
	}
	s := p.state.current()
	tables := []table{}
	for t := range s.Tables() {
		v := table{Name: t.Name, Version: t.Version}
		for _, vh := range t.Hosts() {
			h := host{Name: vh.Name, Domains: vh.Domains}
			for _, e := range vh.Entries {
				x := entry{Name: e.Name, Object: e.Source.Object().Config, Redirect: e.Redirect != nil}
				kind, path := e.Matched()
				x.Match = fmt.Sprintf("%s %s", kind, path)
				if o := e.Source.Object(); o.File != "" {
					x.At = fmt.Sprintf("%s:%d", o.File, o.Line)
				}
				if e.Direct != nil {
					x.Direct = e.Direct.Status
				}
				if e.Fault != nil {
					x.Fault = e.Fault
				}
				if f := e.Forward; f != nil {
					if f.Timeout > 0 {
						x.Timeout = f.Timeout.String()
					}
					for _, w := range f.Clusters {
						x.Clusters = append(x.Clusters, fmt.Sprintf("%s (%d/%d)", w.Name, w.Weight, f.Total))
					}
				}
				h.Routes = append(h.Routes, x)
			}
			v.Hosts = append(v.Hosts, h)
		}
		tables = append(tables, v)
	}
	skipped := []state.Skipped{}
	for l := range s.Listeners() {
		skipped = append(skipped, l.Skipped...)
	}
	m := map[string]any{"generation": s.Generation, "listeners": p.listeners(), "routes": tables, "clusters": p.clusters(), "skippedOptionalFilters": skipped,
		"unheededSettings": slices.AppendSeq([]state.Unheeded{}, s.Unheeded())}
	if p.demands != nil {
		m["onDemand"] = p.OnDemand()
	}
	return m
}
