package http

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/tls"
)

func someone() *tls.Peer {
	return &tls.Peer{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "x"}}
}

func encode(t testing.TB, s *spb.Status) []byte {
	t.Helper()
	b, err := proto.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawStdEncoding.AppendEncode(nil, b)
}

func details(t testing.TB, all ...proto.Message) []*anypb.Any {
	t.Helper()
	var out []*anypb.Any
	for _, m := range all {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// Who is told why a proxy answered, and of whom it is believed.
func TestWhoIsTold(t *testing.T) {
	const said = "upstream_timeout; id=forged"
	for _, c := range []struct {
		name             string
		tells            Confidants
		client, upstream *tls.Peer
		cause            causes.Cause
		id               string
		want             string // x-weir-why, of an answer that comes with one
		heard            string // what is noted of it
	}{
		{"its own workload", Workload, nil, nil, causes.ClusterNotFound, "r1", "cluster_not_found; id=r1", ""},
		{"a request without an id", Workload, nil, nil, causes.ClusterNotFound, "", "cluster_not_found", ""},
		{"an id that is too long", Workload, nil, nil, causes.ClusterNotFound, strings.Repeat("x", 100), "cluster_not_found; id=" + strings.Repeat("x", 63), ""},
		{"a peer", Peers, someone(), nil, causes.UpstreamConnectRefused, "r1", "upstream_connect_refused; id=r1", ""},
		{"a peer that a policy denies something", Peers, someone(), nil, causes.AccessDenied, "r1", "denied; id=r1", ""},
		{"a peer whose token is bad", Peers, someone(), nil, causes.TokenExpired, "r1", "denied; id=r1", ""},
		{"a peer that a service denies something", Peers, someone(), nil, causes.ExtAuthzDenied, "r1", "denied; id=r1", ""},
		{"plaintext", Peers, nil, nil, causes.UpstreamConnectRefused, "r1", "", ""},
		{"TLS without an identity", Peers, &tls.Peer{Presented: true, URI: "spiffe://elsewhere/x"}, nil, causes.UpstreamConnectRefused, "r1", "", ""},
		{"a gateway's client", Nobody, someone(), nil, causes.RouteNotFound, "r1", "", ""},
		{"a redirect is no failure", Workload, nil, nil, causes.DirectResponse, "r1", "", ""},
		{"a peer's answer", Workload, nil, someone(), causes.NoCause, "r1", said, "upstream_timeout"},
		{"a stranger's answer", Workload, nil, nil, causes.NoCause, "r1", "", ""},
		{"an external server's answer", Workload, nil, &tls.Peer{Presented: true}, causes.NoCause, "r1", "", ""},
		{"the application's answer", Peers, someone(), someone(), causes.NoCause, "r1", "", ""},
		{"an answer through a gateway", Nobody, nil, someone(), causes.NoCause, "r1", "", "upstream_timeout"},
	} {
		x := &Exchange{Config: &Config{Tells: c.tells}, Conn: &conn.Info{TLS: c.client}, UpstreamTLS: c.upstream, Cause: c.cause}
		if c.id != "" {
			x.Request.Headers.Set(message.XRequestID, []byte(c.id))
		}
		x.Response.Headers.Set(message.XWeirWhy, []byte(said))
		forged := encode(t, &spb.Status{Code: 14, Details: details(t, &errdetails.ErrorInfo{Reason: "forged", Domain: domain})})
		x.Response.Headers.Set(message.GRPCStatusDetailsBin, forged)
		x.tell()
		if got := string(x.Response.Headers.Get(message.XWeirWhy)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if x.Said.String() != c.heard {
			t.Errorf("%s: it is noted that %q was said, want %q", c.name, x.Said, c.heard)
		}
		if got := x.Response.Headers.Get(message.GRPCStatusDetailsBin); c.want == said != bytes.Equal(got, forged) || c.want != said && got != nil {
			t.Errorf("%s: the details are %s", c.name, got)
		}
	}
}

// A gRPC client reads the cause and the id, with the status and the message that it would have had without them.
func TestGRPCIsTold(t *testing.T) {
	for _, text := range []string{"", "upstream request timeout", "100 % wrong: größer", strings.Repeat("long ", 200)} {
		x := &Exchange{Config: &Config{Tells: Workload}, Conn: &conn.Info{}, Cause: causes.UpstreamTimeout}
		x.Request.Headers.Set(message.XRequestID, []byte("r1"))
		x.grpcHead(14, []byte(text))
		x.tell()
		raw, err := base64.RawStdEncoding.DecodeString(string(x.Response.Headers.Get(message.GRPCStatusDetailsBin)))
		if err != nil {
			t.Fatal(err)
		}
		var s spb.Status
		if err := proto.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		want := &spb.Status{Code: 14, Message: text, Details: details(t, &errdetails.ErrorInfo{Reason: "upstream_timeout", Domain: "weir.dev", Metadata: map[string]string{"request_id": "r1"}})}
		if !proto.Equal(&s, want) {
			t.Errorf("%v, want %v", &s, want)
		}
		if rest, ours := withoutOurs(x.Response.Headers.Get(message.GRPCStatusDetailsBin)); rest != nil || !ours {
			t.Errorf("it is not known again: %s", rest)
		}
	}
}

// FuzzDetails: no application can say something in the mesh's name, and what it says besides stays as it is.
func FuzzDetails(f *testing.F) {
	ours, other := &errdetails.ErrorInfo{Reason: "x", Domain: domain}, &errdetails.ErrorInfo{Reason: "x", Domain: "example.com"}
	f.Add(encode(f, &spb.Status{Code: 5, Message: "weir.dev", Details: details(f, ours, other, &errdetails.RetryInfo{}, ours)}))
	f.Add(encode(f, &spb.Status{Code: 5, Details: details(f, ours)}))
	f.Add(append(encode(f, &spb.Status{Code: 5, Details: details(f, other)}), "=="...))
	f.Add([]byte("not base64!"))
	f.Fuzz(func(t *testing.T, value []byte) {
		read := func(v []byte) (*spb.Status, bool) {
			raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(string(v), "="))
			s := &spb.Status{}
			return s, err == nil && proto.Unmarshal(raw, s) == nil
		}
		before, ok := read(value)
		if !ok {
			return
		}
		rest, _ := withoutOurs(bytes.Clone(value))
		if rest == nil {
			rest = []byte{}
		}
		after, ok := read(rest)
		if !ok {
			t.Fatalf("%q becomes %q", value, rest)
		}
		var kept []*anypb.Any
		for _, d := range before.GetDetails() {
			var i errdetails.ErrorInfo
			if strings.HasSuffix(d.GetTypeUrl(), "google.rpc.ErrorInfo") && proto.Unmarshal(d.GetValue(), &i) == nil && i.GetDomain() == domain {
				continue
			}
			kept = append(kept, d)
		}
		var left []*anypb.Any
		for _, d := range after.GetDetails() {
			var i errdetails.ErrorInfo
			if strings.HasSuffix(d.GetTypeUrl(), "google.rpc.ErrorInfo") && proto.Unmarshal(d.GetValue(), &i) == nil && i.GetDomain() == domain {
				t.Fatalf("%q keeps %v", value, d)
			}
			left = append(left, d)
		}
		// One that says it twice, the second time otherwise, goes as well.
		if len(left) > len(kept) {
			t.Errorf("%d details become %d", len(kept), len(left))
		}
	})
}
