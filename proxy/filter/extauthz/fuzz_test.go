package extauthz

import (
	"encoding/binary"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

func answer200(body []byte, grpcStatus string) *http.Answer {
	a := &http.Answer{Response: &message.Response{Status: 200}, Trailers: &message.Headers{}, Body: body}
	a.Trailers.Set(message.GRPCStatus, []byte(grpcStatus))
	return a
}

func framed(t testing.TB, m *authv3.CheckResponse) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 5), m)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5))
	return b
}

// What lets a connection in is a whole message that says so, in an answer that ended well; everything else keeps it out, unless failures let in.
func TestRulingOfAnswers(t *testing.T) {
	yes := framed(t, &authv3.CheckResponse{Status: &status.Status{}})
	no := framed(t, &authv3.CheckResponse{Status: &status.Status{Code: 7}})
	cut := answer200(yes, "0")
	cut.Cut = true
	gone := &http.Answer{Cause: causes.ClusterNotFound}
	for _, c := range []struct {
		name         string
		answer       *http.Answer
		closed, open causes.Cause
	}{
		{"yes", answer200(yes, "0"), causes.NoCause, causes.NoCause},
		{"no", answer200(no, "0"), causes.ExtAuthzDenied, causes.ExtAuthzDenied},
		{"yes, but the call failed", answer200(yes, "14"), causes.ExtAuthzError, causes.NoCause},
		{"yes, but not all of it", cut, causes.ExtAuthzError, causes.NoCause},
		{"nothing", answer200(nil, "0"), causes.ExtAuthzError, causes.NoCause},
		{"half a message", answer200(no[:6], "0"), causes.ExtAuthzError, causes.NoCause},
		{"two messages", answer200(append(append([]byte(nil), yes...), no...), "0"), causes.ExtAuthzError, causes.NoCause},
		{"compressed", answer200(append([]byte{1}, yes[1:]...), "0"), causes.ExtAuthzError, causes.NoCause},
		{"no connection", &http.Answer{Cause: causes.UpstreamConnectRefused}, causes.ExtAuthzError, causes.NoCause},
		{"nobody is there to be asked", gone, causes.ExtAuthzError, causes.ExtAuthzError},
	} {
		for open, want := range map[bool]causes.Cause{false: c.closed, true: c.open} {
			k := &Connections{FailureModeAllow: open, Counts: &Counts{}}
			if got := k.rule(c.answer); got.Cause != want {
				t.Errorf("%s (open: %v): %v, want %v", c.name, open, got.Cause, want)
			}
			if k.Counts.OK.Load()+k.Counts.Denied.Load()+k.Counts.Error.Load() != 1 {
				t.Errorf("%s (open: %v): counted %+v", c.name, open, k.Counts)
			}
		}
	}
}

// Whatever a provider answers, a connection is let in by a message that says yes and by no other, and what is taken for headers can stand in a
// message.
func FuzzAnswer(f *testing.F) {
	header := []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "X-User", Value: "jane"}}}
	for _, m := range []*authv3.CheckResponse{
		{Status: &status.Status{}}, {Status: &status.Status{Code: 7}},
		{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: header, HeadersToRemove: []string{"x-secret"}, ResponseHeadersToAdd: header}}},
		{Status: &status.Status{Code: 16}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 401}, Headers: header, Body: "no"}}},
	} {
		f.Add(framed(f, m), "0")
	}
	f.Add([]byte{0, 0, 0, 0, 0}, "")
	f.Fuzz(func(t *testing.T, body []byte, grpcStatus string) {
		a := answer200(body, grpcStatus)
		k := &Connections{Counts: &Counts{}}
		got := k.rule(a)
		if got.Cause != causes.NoCause {
			return
		}
		m := &authv3.CheckResponse{}
		if grpcStatus != "0" && a.GRPCStatus() != 0 || len(body) < 5 || proto.Unmarshal(body[5:], m) != nil || m.GetStatus().GetCode() != 0 {
			t.Fatalf("%q with status %q lets a connection in", body, grpcStatus)
		}
		each(m.GetOkResponse().GetHeaders(), func(name, value []byte, _ bool) {
			if !sound(trimColon(name), value) {
				t.Fatalf("%q: %q is taken for a header", name, value)
			}
		})
	})
}
