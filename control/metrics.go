package control

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/config"
)

const (
	// scrapeTimeout bounds the wait for one proxy; one that hangs is left out.
	scrapeTimeout = 2 * time.Second
	// maxScrape bounds what one proxy may answer.
	maxScrape = 64 << 20
	// scrapers ask proxies at the same time.
	scrapers = 8
)

// handleMetrics writes the control plane's own metrics and those of all proxies, with
// the label instance added to the latter.
func (p *Plane) handleMetrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	var own bytes.Buffer
	p.ownMetrics(&own)
	if err := p.instruments.write(&own); err != nil {
		p.o.Log.Warn("some metrics cannot be read", "err", err)
	}
	if c := p.o.Cluster; c != nil && c.Metrics != nil {
		c.Metrics(&own)
	}
	m := newMerger()
	m.add(own.Bytes(), "")
	u := p.latest.Load()
	if u != nil {
		type target struct{ instance, addr string }
		var targets []target
		for k, wl := range u.Snapshot.Workloads.All() {
			if wl.AdminAddr != "" {
				targets = append(targets, target{string(k), wl.AdminAddr})
			}
		}
		texts := make([][]byte, len(targets))
		var wg sync.WaitGroup
		limit := make(chan struct{}, scrapers)
		failed := make([]bool, len(targets))
		for i, t := range targets {
			wg.Go(func() {
				limit <- struct{}{}
				defer func() { <-limit }()
				text, err := scrape(r.Context(), t.addr)
				failed[i] = err != nil
				texts[i] = text
			})
		}
		wg.Wait()
		down := 0
		for i, t := range targets {
			if failed[i] {
				down++
				continue
			}
			m.add(texts[i], t.instance)
		}
		m.add(fmt.Appendf(nil, "# HELP weir_control_scrape_failures Proxies that did not answer this scrape.\n# TYPE weir_control_scrape_failures gauge\nweir_control_scrape_failures %d\n", down), "")
	}
	_ = m.write(w) // an error here is the client's going away
}

// scrape asks a proxy's admin interface for its metrics.
func scrape(ctx context.Context, addr string) ([]byte, error) {
	network, address := "tcp", addr
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, address = "unix", path
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy/stats/prometheus", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxScrape))
}

// merger joins Prometheus texts: each metric's HELP and TYPE once, its samples together.
type merger struct {
	families map[string]*family
}

type family struct {
	head    []string
	samples []string
}

func newMerger() *merger { return &merger{families: map[string]*family{}} }

// add takes a text; instance, if not empty, becomes a label of every sample.
func (m *merger) add(text []byte, instance string) {
	sc := bufio.NewScanner(bytes.NewReader(text))
	sc.Buffer(nil, 1<<20)
	current := ""
	for sc.Scan() {
		line := sc.Text()
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "#" && (f[1] == "HELP" || f[1] == "TYPE") {
			current = f[2]
			fam := m.family(current)
			if !slices.ContainsFunc(fam.head, func(h string) bool { return strings.HasPrefix(h, "# "+f[1]+" ") }) {
				fam.head = append(fam.head, line)
			}
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		name := line[:strings.IndexFunc(line+" ", func(r rune) bool { return r == '{' || r == ' ' })]
		owner := name
		if current != "" && strings.HasPrefix(name, current) { // name_bucket, name_sum, name_count belong to name
			owner = current
		}
		m.family(owner).samples = append(m.family(owner).samples, withInstance(line, len(name), instance))
	}
}

func (m *merger) family(name string) *family {
	f := m.families[name]
	if f == nil {
		f = &family{}
		m.families[name] = f
	}
	return f
}

func withInstance(line string, name int, instance string) string {
	if instance == "" {
		return line
	}
	label := `instance=` + strconv.Quote(instance)
	if name < len(line) && line[name] == '{' {
		if strings.HasPrefix(line[name:], "{}") {
			return line[:name] + "{" + label + line[name+1:]
		}
		return line[:name] + "{" + label + "," + line[name+1:]
	}
	return line[:name] + "{" + label + "}" + line[name:]
}

func (m *merger) write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(m.families)) {
		f := m.families[name]
		for _, line := range append(f.head, f.samples...) {
			_, _ = b.WriteString(line)
			_ = b.WriteByte('\n')
		}
	}
	return b.Flush()
}

// ownMetrics writes what Istio's dashboards and alerts know of a control plane.
func (p *Plane) ownMetrics(w io.Writer) {
	type metric struct {
		name, kind, help, labels string
		value                    float64
	}
	clients := p.xds.Clients()
	rejects, behind := 0, 0
	var bytesSent uint64
	for _, c := range clients {
		bytesSent += c.BytesSent
		if !c.BehindSince.IsZero() {
			behind++
		}
		for _, t := range c.Types {
			rejects += len(t.Rejected)
		}
	}
	list := []metric{
		{"pilot_info", "gauge", "Version of the control plane.", fmt.Sprintf("{version=%q}", p.o.Version), 1},
		{"istiod_uptime_seconds", "gauge", "Seconds since the start.", "", time.Since(p.started).Seconds()},
		{"weir_control_rejected_resources", "gauge", "Resources that proxies refuse now.", "", float64(rejects)},
		{"weir_control_token_keys_oldest_seconds", "gauge", "How long ago those keys of a token issuer were fetched, of all in force, that are the oldest.", "", p.keys.Oldest().Seconds()},
		{"weir_control_behind", "gauge", "Connected proxies that do not have the newest configuration yet, or refuse some of it.", "", float64(behind)},
		{"weir_control_memory_pressure", "gauge", "How near the memory limit is: 1, proxies are sent to other replicas; 2, none are taken.", "", float64(p.pressed())},
		{"weir_control_sent_bytes", "gauge", "Bytes of configuration sent to the proxies connected now.", "", float64(bytesSent)},
	}
	p.edges.table.mu.Lock()
	known, lost, dropped := len(p.edges.table.m), p.edges.table.lost, p.edges.table.dropped
	p.edges.table.mu.Unlock()
	list = append(list,
		metric{"weir_control_observe_streams", "gauge", "Proxies that report edges.", "", float64(p.edges.streams.Load())},
		metric{"weir_control_observe_reports_total", "counter", "Reports of edges that were counted.", "", float64(p.edges.reports.Load())},
		metric{"weir_control_observe_refused_total", "counter", "Observe streams that were ended for what was sent on them.", "", float64(p.edges.refused.Load())},
		metric{"weir_control_observe_edges", "gauge", "Edges known.", "", float64(known)},
		metric{"weir_control_observe_lost_total", "counter", "Requests and connections that proxies counted without their edge.", "", float64(lost)},
		metric{"weir_control_observe_dropped_total", "counter", "Edges in reports for which there was no room.", "", float64(dropped)})
	versions := map[string]int{} // Istio's label: what the proxies say they are
	for _, c := range clients {
		versions[c.Metadata.GetFields()["ISTIO_VERSION"].GetStringValue()]++
	}
	if len(clients) == 0 {
		list = append(list, metric{"pilot_xds", "gauge", "Connected proxies, by the version of Istio whose configuration they understand.", "", 0})
	}
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		list = append(list, metric{"pilot_xds", "gauge", "Connected proxies, by the version of Istio whose configuration they understand.", fmt.Sprintf("{version=%q}", v), float64(versions[v])})
	}
	if u := p.latest.Load(); u != nil {
		noInstances, notReady := endpointCounts(u.Snapshot)
		duplicates := 0
		for _, f := range u.Findings {
			if f.Code == config.ConflictingMeshHosts {
				duplicates++
			}
		}
		quarantined := 0
		for o := range u.Objects.Values() {
			if o.State == "quarantined" {
				quarantined++
			}
		}
		list = append(list,
			metric{"pilot_services", "gauge", "Services known.", "", float64(u.Snapshot.Services.Len())},
			metric{"pilot_virt_services", "gauge", "VirtualServices in force.", "", float64(u.Snapshot.VirtualServices.Len())},
			metric{"pilot_eds_no_instances", "gauge", "Ports of services that nobody serves.", "", float64(noInstances)},
			metric{"pilot_endpoint_not_ready", "gauge", "Endpoints that take no requests now.", "", float64(notReady)},
			metric{"pilot_vservice_dup_domain", "gauge", "Hosts of VirtualServices that another one defines, too.", "", float64(duplicates)},
			metric{"pilot_total_rejected_configs", "gauge", "Objects not in force because of errors.", "", float64(quarantined)},
			metric{"weir_control_mesh_version", "gauge", "Version of the configuration in force.", "", float64(u.Snapshot.Version)},
			metric{"weir_control_quarantined_objects", "gauge", "Objects not in force because of errors.", "", float64(quarantined)},
			metric{"weir_control_error_findings", "gauge", "Findings of severity error.", "", float64(config.Errors(u.Findings))},
		)
	}
	for _, m := range p.signer.Metrics() {
		kind, labels := "gauge", ""
		if m.Counter {
			kind = "counter"
		}
		if m.Error != "" {
			labels = fmt.Sprintf("{error=%q}", m.Error)
		}
		list = append(list, metric{m.Name, kind, m.Help, labels, m.Value})
	}
	view := p.identityView(time.Now().Round(0))
	overdue := 0
	for _, w := range view.Workloads {
		if w.Overdue {
			overdue++
		}
	}
	list = append(list,
		metric{"weir_identity_certificates", "gauge", "Certificates issued by this replica that have not ended.", "", float64(p.issued.count(time.Now()))},
		metric{"weir_identity_overdue", "gauge", "Workloads connected here that should have renewed their certificates and have not.", "", float64(overdue)},
		metric{"weir_identity_roots", "gauge", "Roots that are trusted.", "", float64(len(view.Roots))})
	if view.Horizon != nil {
		list = append(list, metric{"weir_identity_horizon_seconds", "gauge", "Seconds until the first thing breaks if nothing is done; absent if nothing is in sight.", "", time.Until(view.Horizon.At).Seconds()})
	}
	last := ""
	for _, m := range list {
		if m.name != last {
			_, _ = fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
			last = m.name
		}
		_, _ = fmt.Fprintf(w, "%s%s %s\n", m.name, m.labels, strconv.FormatFloat(m.value, 'g', -1, 64))
	}
}
