package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/api/keys"
	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
)

// newestKeys asks the control plane for the newest keys of a token issuer.
func (p *Proxy) newestKeys(ctx context.Context, uri string) (string, error) {
	if p.xds == nil {
		return "", errors.New("there is no control plane")
	}
	s, _ := p.xds.State()
	conn := p.uplink.Load()
	if !s.Connected || conn == nil || !slices.Contains(strings.Fields(s.ControlPlane), keys.Token) {
		return "", errors.New("no control plane is there that fetches keys")
	}
	return keys.Newest(ctx, *conn, uri)
}

// fetchKeys fetches a set of keys itself, and says so when that fails.
func (p *Proxy) fetchKeys(ctx context.Context, from *jwtauthn.Remote) (string, error) {
	text, err := p.get(ctx, from)
	if err == nil {
		_, err = jwt.ParseKeys(text)
	}
	if err != nil && p.quitCtx.Err() == nil {
		p.o.Log.Warn("keys of tokens cannot be fetched; those that were stay in force", "uri", from.Scheme+"://"+from.Authority+from.Path, "err", err)
	}
	return text, err
}

// get fetches what is there, on the first worker.
func (p *Proxy) get(ctx context.Context, from *jwtauthn.Remote) (string, error) {
	type result struct {
		text string
		err  error
	}
	w, done := p.workers[0], make(chan result, 1)
	ask := func(q *message.Request, _ *message.Arena, body []byte) []byte {
		q.Protocol = message.HTTP11
		q.SetMethod([]byte("GET"))
		q.Scheme, q.Authority, q.Path = []byte(from.Scheme), []byte(from.Authority), []byte(from.Path)
		q.Headers.Set(message.Accept, []byte("application/json"))
		q.Headers.Set(message.UserAgent, []byte("weir-proxy"))
		return body
	}
	told := func(a *http.Answer) {
		var r result
		switch {
		case a.Cause != causes.NoCause:
			r.err = errors.New(a.Cause.Sentence())
		case a.Response.Status != 200:
			r.err = fmt.Errorf("the answer is of status %d", a.Response.Status)
		case a.Cut:
			r.err = fmt.Errorf("the answer has more than %d bytes", jwt.MaxKeySet)
		default:
			r.text = string(a.Body)
		}
		done <- r
	}
	ended := errors.New("the proxy ends")
	if !w.loop.Post(func() {
		w.http.Call(http.Call{Cluster: from.Cluster, Timeout: from.Timeout, MaxAnswer: jwt.MaxKeySet, Ask: ask}, told)
	}) {
		return "", ended
	}
	select {
	case r := <-done:
		return r.text, r.err
	case <-w.ended:
		return "", ended
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
