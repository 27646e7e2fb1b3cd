package observe

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weirmesh/weir/api/causes"
)

var reviews = &Node{ID: "sidecar~10.244.0.3~reviews-v1-0.default~default.svc.cluster.local", Name: "reviews-v1-0", Namespace: "default",
	Workload: "reviews-v1", Owner: "kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1", Cluster: "Kubernetes",
	MeshID: "cluster.local", ServiceAccount: "bookinfo-reviews", Labels: map[string]string{"app": "reviews", "version": "v1"}}

// What one proxy says of its workload is what the other one understands.
func TestMetadataRoundTrip(t *testing.T) {
	header, err := reviews.Header()
	if err != nil {
		t.Fatal(err)
	}
	peers := NewPeers()
	got := peers.FromHeader([]byte(header))
	if d := cmp.Diff(reviews.Peer(), got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if again := peers.FromHeader([]byte(header)); again != got {
		t.Error("the same metadata must be the same Peer: it is a map key")
	}
	tcp := peers.FromStruct(reviews.Metadata())
	if d := cmp.Diff(reviews.Peer(), tcp); d != "" {
		t.Errorf("TCP exchange (-want +got):\n%s", d)
	}
}

// Metadata that is not sound makes the peer unknown and harms nothing.
func TestUnsoundMetadata(t *testing.T) {
	peers := NewPeers()
	for _, bad := range []string{"", "%%%", "aGVsbG8gd29ybGQ", "////", strings.Repeat("A", maxPeerMetadata+4)} {
		if p := peers.FromHeader([]byte(bad)); p != nil {
			t.Errorf("%.20q gave %+v", bad, p)
		}
	}
}

func FuzzPeerFromHeader(f *testing.F) {
	h, _ := reviews.Header()
	f.Add([]byte(h))
	f.Add([]byte("AAAA"))
	peers := NewPeers()
	f.Fuzz(func(_ *testing.T, metadata []byte) { peers.FromHeader(metadata) })
}

// Replicas are one workload. Who invents workloads makes us remember a bounded number of names of bounded length, and
// an hour later others have their turn.
func TestInventedPeers(t *testing.T) {
	peers := NewPeers()
	replica := *reviews
	replica.Name = "reviews-v1-1"
	if a, b := peers.FromStruct(reviews.Metadata()), peers.FromStruct(replica.Metadata()); a == nil || a != b {
		t.Errorf("two replicas: %p, %p", a, b)
	}
	known := 0
	invent := func(i int) *Peer {
		n := Node{Workload: "w" + strconv.Itoa(i)}
		return peers.FromStruct(n.Metadata())
	}
	for i := range 2 * maxPeers {
		if invent(i) != nil {
			known++
		}
	}
	if known != maxPeers-1 || len(peers.peers) > maxPeers || len(peers.forms) > maxForms {
		t.Errorf("%d are known, %d remembered in %d forms", known, len(peers.peers), len(peers.forms))
	}
	if peers.FromStruct(reviews.Metadata()) == nil {
		t.Error("one that was there before was forgotten")
	}
	peers.since = peers.since.Add(-forgetAfter)
	if invent(3*maxPeers) == nil || len(peers.peers) != 1 {
		t.Errorf("an hour later a new workload is not known, %d are", len(peers.peers))
	}
	long := Node{Workload: strings.Repeat("w", maxName+1)}
	if p := peers.FromStruct(long.Metadata()); p != nil {
		t.Errorf("a name of %d bytes", len(p.Workload))
	}
}

func TestCanonicalNames(t *testing.T) {
	for _, c := range []struct {
		labels           map[string]string
		service, version string
	}{
		{nil, "w", "latest"},
		{map[string]string{"app": "a", "version": "1"}, "a", "1"},
		{map[string]string{"app": "a", "app.kubernetes.io/name": "n", "app.kubernetes.io/version": "2", "version": "1"}, "n", "2"},
		{map[string]string{"service.istio.io/canonical-name": "c", "app": "a", "service.istio.io/canonical-revision": "3"}, "c", "3"},
	} {
		if s, r := CanonicalService(c.labels, "w"), CanonicalRevision(c.labels); s != c.service || r != c.version {
			t.Errorf("%v: %s %s, want %s %s", c.labels, s, r, c.service, c.version)
		}
	}
}

var (
	reviewsPeer     = reviews.Peer()
	productpagePeer = &Peer{Workload: "productpage-v1", Namespace: "default", App: "productpage", Version: "v1",
		CanonicalService: "productpage", CanonicalRevision: "v1", Cluster: "Kubernetes"}
)

func labels() *Labels {
	return &Labels{Reporter: Destination, Source: productpagePeer, Destination: reviewsPeer,
		SourcePrincipal: "spiffe://cluster.local/ns/default/sa/bookinfo-productpage", DestPrincipal: "spiffe://cluster.local/ns/default/sa/bookinfo-reviews",
		Service:  Service{Host: "reviews.default.svc.cluster.local", Name: "reviews", Namespace: "default"},
		Protocol: "http", Security: SecurityMutualTLS, Status: 200, GRPCStatus: -1}
}

// The text parses as Prometheus text, and has Istio's names to the byte.
func TestPrometheus(t *testing.T) {
	w, w2 := NewWorker(), NewWorker()
	w.Request(labels(), 3*time.Millisecond, 0, 100)
	w.Request(labels(), 7*time.Millisecond, 0, 100)
	replica := labels() // the same workload, heard of in another way: no series of its own
	source := *replica.Source
	replica.Source = &source
	w2.Request(replica, 2*time.Second, 10, 5000)
	l := labels()
	l.Protocol, l.Status = "tcp", 0
	s := w.TCP(l)
	s.Opened++
	s.Sent += 11
	evil := labels()
	evil.Source = &Peer{Workload: "a\"b\\c\nd\xff"}
	evil.Flags, evil.Status = causes.UpstreamConnectionFailure|causes.UpstreamRetryLimitExceeded, 503
	w.Request(evil, 0, 0, 0)
	total := NewTotals()
	total.Add(w)
	total.Add(w2)
	var out bytes.Buffer
	if err := total.WritePrometheus(&out); err != nil {
		t.Fatal(err)
	}
	want := `istio_requests_total{reporter="destination",source_workload="productpage-v1",source_canonical_service="productpage",source_canonical_revision="v1",source_workload_namespace="default",source_principal="spiffe://cluster.local/ns/default/sa/bookinfo-productpage",source_app="productpage",source_version="v1",source_cluster="Kubernetes",destination_workload="reviews-v1",destination_workload_namespace="default",destination_principal="spiffe://cluster.local/ns/default/sa/bookinfo-reviews",destination_app="reviews",destination_version="v1",destination_service="reviews.default.svc.cluster.local",destination_canonical_service="reviews",destination_canonical_revision="v1",destination_service_name="reviews",destination_service_namespace="default",destination_cluster="Kubernetes",request_protocol="http",response_code="200",grpc_response_status="",response_flags="-",connection_security_policy="mutual_tls"} 3` + "\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("missing\n%s", want)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatalf("not Prometheus text: %v\n%s", err, out.String())
	}
	var duration []uint64
	for _, m := range families["istio_request_duration_milliseconds"].GetMetric() {
		if m.GetHistogram().GetSampleCount() != 3 {
			continue
		}
		for _, b := range m.GetHistogram().GetBucket() {
			duration = append(duration, b.GetCumulativeCount())
		}
		if sum := m.GetHistogram().GetSampleSum(); sum != 2010 {
			t.Errorf("sum %v, want 2010", sum)
		}
	}
	if d := cmp.Diff([]uint64{0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3}, duration); d != "" {
		t.Errorf("duration buckets of 3, 7 and 2000 ms (-want +got):\n%s", d)
	}
	if got := families["istio_tcp_sent_bytes_total"].GetMetric()[0].GetCounter().GetValue(); got != 11 {
		t.Errorf("tcp sent %v, want 11", got)
	}
}

func TestCountingDoesNotAllocate(t *testing.T) {
	w := NewWorker()
	a, b := labels(), labels()
	b.Status = 404
	if n := testing.AllocsPerRun(1000, func() { w.Request(a, 1e6, 1, 2); w.Request(b, 1e6, 1, 2) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	w := NewWorker()
	l, m := labels(), labels()
	m.Status = 404
	for b.Loop() {
		w.Request(l, 1234567, 100, 2000)
		w.Request(m, 1234567, 100, 2000)
	}
}

type blocked struct{ release chan struct{} }

func (b blocked) Write(p []byte) (int, error) { <-b.release; return len(p), nil }

// Lines come out whole and in order; a reader that blocks costs lines, never a worker.
func TestLog(t *testing.T) {
	l := NewLog()
	r := record()
	var out bytes.Buffer
	logs := []AccessLog{{Format: istio(t)}, {Format: istio(t), Only: causes.UpstreamOverflowFlag}}
	for range 300 {
		l.Write(logs, r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx, &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), string(logs[0].Format.AppendLine(nil, r))); n != 300 {
		t.Errorf("%d whole lines, want 300", n)
	}

	ctx, cancel = context.WithCancel(context.Background())
	release := make(chan struct{})
	done := make(chan error)
	go func() { done <- l.Run(ctx, blocked{release}) }()
	for l.Dropped.Load() == 0 {
		l.Write(logs, r) // ends: the bound is 4 MiB
	}
	close(release)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func BenchmarkAccessLogLine(b *testing.B) {
	r, f := record(), istio(b)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = f.AppendLine(buf[:0], r)
	}
}

// Peers that invent who they are and answer with every status do not make us hold, and be asked for, more than a bounded number of series. Nothing
// is lost of what they did, and the metrics say that something was counted elsewhere.
func TestPeersDoNotChooseHowManySeries(t *testing.T) {
	w := NewWorker()
	const services, requests = 1500, 3 * (maxSeries + maxCrowded)
	peers := make([]*Peer, 4096)
	for i := range peers {
		peers[i] = &Peer{Workload: fmt.Sprintf("w%d", i)}
	}
	for i := range requests {
		l := Labels{Source: peers[i%len(peers)], Destination: peers[i/3%len(peers)], SourcePrincipal: fmt.Sprintf("p%d", i%7), Protocol: "http", GRPCStatus: int8(i % 120),
			Status: uint16(100 + i%900), Flags: causes.Flags(i % 31), Service: Service{Host: fmt.Sprintf("h%d", i%services)}}
		w.Request(&l, 0, 1, 2)
		w.TCP(&Labels{Source: peers[i%len(peers)], DestPrincipal: fmt.Sprintf("p%d", i), Protocol: "tcp", GRPCStatus: -1}).Opened++
	}
	const few = 10 // sides and protocols
	if n := len(w.http); n < maxSeries || n > maxSeries+maxCrowded+few {
		t.Errorf("%d series of requests", n)
	}
	if n := len(w.tcp); n != maxSeries+1 {
		t.Errorf("%d series of connections", n)
	}
	sum := NewTotals()
	sum.Add(w)
	var own, crowd, opened uint64
	for l, s := range sum.HTTP {
		if l.Source == Crowd {
			crowd += s.Requests
		} else {
			own += s.Requests
		}
	}
	for _, s := range sum.TCP {
		opened += s.Opened
	}
	if own+crowd != requests || opened != requests {
		t.Errorf("%d and %d requests are counted, and %d connections, of %d", own, crowd, opened, requests)
	}
	if want := crowd + requests - maxSeries; sum.Overflow != want {
		t.Errorf("%d counted elsewhere, want %d", sum.Overflow, want)
	}
	var text bytes.Buffer
	small := &Totals{HTTP: map[Labels]*HTTPSeries{}, Overflow: sum.Overflow}
	for l, s := range sum.HTTP {
		if l.Source == Crowd && l.Service.Host == "h7" && l.Status == 400 {
			small.HTTP[l] = s
		}
	}
	if err := small.WritePrometheus(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`source_workload="__overflow__"`, `destination_workload="__overflow__"`, `destination_service="h7"`, `response_code="4xx"`, "weir_proxy_series 1\n",
		fmt.Sprintf("weir_proxy_series_overflow_total %d\n", sum.Overflow)} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the metrics do not say %s", want)
		}
	}
	// What had room before goes on in its own series.
	l := Labels{Source: peers[0], Destination: peers[0], SourcePrincipal: "p0", Protocol: "http", Status: 100, Service: Service{Host: "h0"}}
	before := w.Overflow
	if s := w.HTTP(&l); s.Requests != 1 || w.Overflow != before {
		t.Errorf("the first request's series has %d", s.Requests)
	}
}

// Failures are counted by cause and side, those of all workers together; what went as it should is none.
func TestFailures(t *testing.T) {
	a, b, sum := NewWorker(), NewWorker(), NewTotals()
	a.Failed(Source, causes.UpstreamConnectRefused)
	a.Failed(Source, causes.DirectResponse)
	a.Failed(Source, causes.NoCause)
	b.Failed(Source, causes.UpstreamConnectRefused)
	b.Failed(Destination, causes.AccessDenied)
	sum.Add(a)
	sum.Add(b)
	var text bytes.Buffer
	if err := sum.WritePrometheus(&text); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "weir_proxy_failures_total") {
			got = append(got, line)
		}
	}
	want := "weir_proxy_failures_total{cause=\"upstream_connect_refused\",reporter=\"source\"} 2\nweir_proxy_failures_total{cause=\"access_denied\",reporter=\"destination\"} 1\n"
	if strings.Join(got, "") != want {
		t.Errorf("%s, want %s", got, want)
	}
}
