package control

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	"github.com/weirmesh/weir/control/ledger"
)

const (
	// newsEvery is how late a caller in plaintext that was not known is written down: so much is lost with a control plane that ends
	// without warning. keepEvery is how late it is that others are known to be callers still.
	newsEvery = 10 * time.Second
	keepEvery = 5 * time.Minute
	// callersFile is in the state folder, where there is no other place.
	callersFile = "plaintext-callers.json"
)

// callers is what one control plane knows of calls in plaintext.
type callers struct {
	ledger.Told
	// Reporting are the workloads whose proxies tell this one of their callers (namespace/name), Routers those of gateways that are connected.
	Reporting []string `json:"reporting"`
	Routers   []string `json:"routers,omitempty"`
	// Problem is why it does not know what others wrote down.
	Problem string `json:"problem,omitempty"`
}

// ownCallers are those of this control plane.
func (p *Plane) ownCallers() callers {
	now := time.Now().Round(0)
	var out callers
	out.Own = p.callers.Book(now)
	var kept ledger.Book
	if err := p.o.Callers(func(old []byte) ([]byte, error) {
		kept = p.written(old)
		return old, nil
	}); err != nil {
		out.Problem = err.Error()
	}
	out.Whole = ledger.Continue(kept, out.Own, now)
	out.Own.Secured = nil // they are in Whole
	for _, r := range p.edges.asking.list() {
		if _, name, ok := nodeName(r.node); ok {
			out.Reporting = append(out.Reporting, name)
		}
	}
	for _, c := range p.xds.Clients() {
		if kind, name, ok := nodeName(c.Node); ok && kind == "router" {
			out.Routers = append(out.Routers, name)
		}
	}
	return out
}

// everyCaller is what all control planes of the mesh know; silent are those that did not say.
func (p *Plane) everyCaller(ctx context.Context) (told []callers, silent []string) {
	own := make(chan callers, 1)
	go func() { own <- p.ownCallers() }() // the API server may be slow
	silent = page(ctx, p.replicas, &replicasv1.Question{Question: &replicasv1.Question_Ledger{Ledger: &replicasv1.Ledger{}}}, func(c callers) {
		told = append(told, c)
	})
	return append(told, <-own), silent
}

// written reads what control planes wrote down. What is damaged is nothing: the observation begins anew.
func (p *Plane) written(text []byte) ledger.Book {
	b, err := ledger.Parse(text)
	if err != nil {
		p.o.Log.Warn("callers in plaintext are observed anew", "err", err)
	}
	return b
}

// keepCallers writes down who calls in plaintext, for whoever comes after this process, until ctx ends.
func (p *Plane) keepCallers(ctx context.Context) error {
	tick := time.NewTicker(newsEvery)
	defer tick.Stop()
	var last time.Time
	failed := false
	for {
		if now := time.Now(); p.callers.News() || failed || now.Sub(last) >= keepEvery {
			err := p.writeCallers()
			if err != nil && !failed {
				p.o.Log.Warn("callers in plaintext are not written down: when this control plane ends they are forgotten", "next_attempt", newsEvery, "err", err)
			}
			last, failed = now, err != nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.callers.Close() // what is reported from now on is reported again, elsewhere
			if err := p.writeCallers(); err != nil {
				p.o.Log.Warn("callers in plaintext are forgotten", "err", err)
			}
			return nil
		}
	}
}

func (p *Plane) writeCallers() error {
	return p.o.Callers(func(old []byte) ([]byte, error) {
		now := time.Now().Round(0)
		b := ledger.Continue(p.written(old), p.callers.Book(now), now)
		b.Saved = now
		return b.Marshal()
	})
}

// noteCallers adds what a report says of callers. It reports whether it was taken.
func (p *Plane) noteCallers(who *reporter, r *observev1.Report, now time.Time) bool {
	for _, e := range r.GetEdges() {
		k := ledger.Key{Namespace: who.self.Namespace, Workload: who.self.Workload, Port: e.GetService().GetPort(), CallerNamespace: e.GetPeer().GetNamespace(), Caller: e.GetPeer().GetWorkload()}
		server := e.GetSide() == observev1.Side_SIDE_DESTINATION
		if !server {
			k = ledger.Key{ByCaller: true, Namespace: e.GetPeer().GetNamespace(), Workload: e.GetPeer().GetWorkload(), Port: e.GetService().GetPort(),
				Service: qualified(e.GetService().GetNamespace(), e.GetService().GetName()), CallerNamespace: who.self.Namespace, Caller: who.self.Workload}
		}
		switch {
		case e.GetTransport() == observev1.Transport_TRANSPORT_PLAINTEXT:
			n := uint64(0)
			for _, o := range e.GetOutcomes() {
				n += o.GetCount()
			}
			if !p.callers.Plain(who.self.Identity, k, n, now) {
				return false
			}
		case e.GetTransport() == observev1.Transport_TRANSPORT_MTLS && server:
			p.callers.TLS(who.self.Identity, ledger.Port{Namespace: k.Namespace, Workload: k.Workload, Port: k.Port}, now)
		}
	}
	return true
}

// keepFile keeps a text in a file of this process alone.
func keepFile(path string) ledger.Keeper {
	return func(change func([]byte) ([]byte, error)) error {
		old, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		text, err := change(old)
		if err != nil || bytes.Equal(text, old) {
			return err
		}
		tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
		if err := os.WriteFile(tmp, text, 0o600); err != nil {
			return err
		}
		return os.Rename(tmp, path)
	}
}
