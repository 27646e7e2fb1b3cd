package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

const (
	// callTime is how long another control plane has to answer a call: less than a caller of the API waits for all.
	callTime = 4 * time.Second
	// mostCalled bounds what one answers, in pieces of which size: some 20,000 proxies.
	mostCalled, callPiece = 32 << 20, 256 << 10
	// mostCall bounds what is asked.
	mostCall = 8 << 10
)

// own are the parts of the API about the proxies that are connected here, which control planes ask each other for.
func (p *Plane) own() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /api/v1/proxies", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, p.proxyStatuses()) })
	m.HandleFunc("GET /api/v1/log-level", p.handleOwnLevels)
	m.HandleFunc("POST /api/v1/log-level", p.handleOwnLevels)
	return m
}

// captured is a http.ResponseWriter that keeps the answer.
type captured struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *captured) Header() http.Header { return a.header }
func (a *captured) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *captured) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.body.Len()+len(b) > mostCalled {
		return 0, errors.New("the answer is too long for another control plane")
	}
	return a.body.Write(b)
}

// Call is replicasv1.ReplicasServer.
func (x *replicas) Call(q *replicasv1.CallRequest, stream grpc.ServerStreamingServer[replicasv1.CallAnswer]) error {
	if err := x.admit(stream.Context()); err != nil {
		return err
	}
	if len(q.GetPath()) > mostCall || !strings.HasPrefix(q.GetPath(), "/api/") {
		return status.Error(codes.InvalidArgument, "the question is out of bounds")
	}
	r, err := http.NewRequestWithContext(stream.Context(), q.GetMethod(), q.GetPath(), nil)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	a := &captured{header: http.Header{}}
	x.p.own().ServeHTTP(a, r)
	if err := stream.Send(&replicasv1.CallAnswer{Replica: x.self, Status: uint32(a.status)}); err != nil {
		return err
	}
	for piece := a.body.Next(callPiece); len(piece) > 0; piece = a.body.Next(callPiece) {
		if err := stream.Send(&replicasv1.CallAnswer{Body: piece}); err != nil {
			return err
		}
	}
	return nil
}

// elsewhere asks all other control planes of the mesh, those of other revisions among them, and has take judge each answer, one at a
// time; its error is that of an answer that is none. silent are those that did not answer.
func (x *replicas) elsewhere(ctx context.Context, method, path string, take func(status int, body []byte) error) (silent []string) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, addr := range x.others() {
		wait.Go(func() {
			self, code, body, err := x.call(ctx, addr, method, path)
			mu.Lock()
			defer mu.Unlock()
			if self {
				return
			}
			if err == nil {
				err = take(code, body)
			}
			if err != nil {
				x.p.o.Log.Warn("another control plane of the mesh did not answer", "address", addr, "path", path, "err", err)
				silent = append(silent, "the control plane at "+addr)
			}
		})
	}
	wait.Wait()
	return silent
}

// call asks one; self: it is this one.
func (x *replicas) call(ctx context.Context, addr, method, path string) (self bool, code int, body []byte, err error) {
	c, err := x.conn(addr)
	if err != nil {
		return false, 0, nil, err
	}
	// Canceled with this function: an answer of this one is not wanted to its end.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := replicasv1.NewReplicasClient(c).Call(ctx, &replicasv1.CallRequest{Method: method, Path: path})
	if err != nil {
		return false, 0, nil, err
	}
	for {
		a, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return false, code, body, nil
		case err != nil:
			return false, 0, nil, err
		case a.GetReplica() == x.self:
			return true, 0, nil, nil
		case a.GetStatus() > 0:
			code = int(a.GetStatus())
		}
		if body = append(body, a.GetBody()...); len(body) > mostCalled {
			return false, 0, nil, errors.New("the answer is too long")
		}
	}
}

// jsonOf reads the answer of another control plane.
func jsonOf(code int, body []byte, v any) error {
	if code != http.StatusOK {
		return errors.New(http.StatusText(code) + ": " + quote(string(body)))
	}
	return json.Unmarshal(body, v)
}

// everyProxy are the proxies of the mesh, at whichever control plane; silent are those of which they are not known.
func (p *Plane) everyProxy(ctx context.Context) (all []apiv1.ProxyStatus, silent []string) {
	var others []apiv1.ProxyStatus
	silent = p.replicas.elsewhere(ctx, http.MethodGet, "/api/v1/proxies", func(code int, body []byte) error {
		var more []apiv1.ProxyStatus
		err := jsonOf(code, body, &more)
		others = append(others, more...)
		return err
	})
	all = append(p.proxyStatuses(), others...)
	slices.SortStableFunc(all, func(a, b apiv1.ProxyStatus) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), a.Connected.Compare(b.Connected))
	})
	slices.Sort(silent)
	return all, silent
}

// handleProxies is GET /api/v1/proxies: a list, and in its header who did not say which others there are.
func (p *Plane) handleProxies(w http.ResponseWriter, r *http.Request) {
	all, silent := p.everyProxy(r.Context())
	for _, s := range silent {
		w.Header().Add(apiv1.SilentHeader, s)
	}
	answer(w, http.StatusOK, all)
}
