package proxy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/proxy/tls"
)

// tellEvery is how often a worker says that it refuses connections: strangers do not
// fill the log.
const tellEvery = time.Second

// refusals tells of connections that were never served, on the loop of one worker.
type refusals struct {
	loop    *loop.Loop
	access  *observe.Log // nil: none
	log     *slog.Logger
	numbers *observe.Worker
	records *records.Recorder // nil: none are kept
	self    *observe.Peer
	told    int64 // when, on the loop's clock; 0: never
	untold  int
	record  observe.Record
}

// causeOf is what the access log says; NoCause: nothing, it is no client's connection.
var causeOf = map[listener.Refusal]causes.Cause{
	listener.NoChain: causes.FilterChainNotFound, listener.Handshake: causes.DownstreamTLSFailed, listener.BadHeader: causes.DownstreamHeaderBad,
	listener.InspectTimeout: causes.DownstreamSilent, listener.Crowded: causes.DownstreamSilent, listener.Misjudged: causes.DownstreamMisjudged,
	listener.TooMany: causes.ConnectionLimit, listener.TooManyInAll: causes.ConnectionLimit, listener.TooFast: causes.RequestRateLimited, listener.Exhausted: causes.DescriptorsExhausted, listener.OutOfMemory: causes.MemoryExhausted, listener.Unconfigured: causes.DestinationConfigUnavailable,
	listener.Looping: causes.NoCause,
}

// tell is listener.Options.Refused.
func (r *refusals) tell(info *conn.Info, c *listener.Config, chain *listener.Chain, why listener.Refusal, err error) {
	cause := causeOf[why]
	if c.Early > 0 {
		cause = causes.NoConfiguration
	}
	if cause != causes.NoCause && r.access != nil {
		r.record = observe.Record{Start: r.loop.Wall(), Cause: cause, Flags: cause.Flag(), Details: cause.Details(), DownstreamLocal: info.Asked(), DownstreamRemote: info.Remote, ServerName: info.ServerName}
		if e, ok := errors.AsType[*tls.Error](err); ok {
			r.record.Details, r.record.Termination = "", cause.Details()+"{"+e.Reason.String()+"}"
			r.record.DownstreamFailure = e.Error()
		}
		r.access.Write(logs(c), &r.record)
	}
	reporter := observe.Source
	if inbound(c) {
		reporter = observe.Destination
	}
	r.numbers.Failed(reporter, cause)
	if cause != causes.NoCause && r.records != nil {
		r.keep(info, c, chain, cause, err)
	}
	stranger := why == listener.NoChain && info.ServerName != ""
	if stranger {
		r.numbers.Unknown(ofListener+c.Name, []byte(info.ServerName), r.loop.Wall())
	}
	if now := r.loop.Now(); r.told == 0 || now-r.told >= int64(tellEvery) {
		a := []any{"listener", c.Name, "peer", info.Remote, "why", why}
		if remedy := cause.Remedy(); remedy != "" {
			a = append(a, "remedy", remedy)
		}
		if err != nil {
			a = append(a, "err", err)
		}
		if r.untold > 0 {
			a = append(a, "others", r.untold)
		}
		if c.Early > 0 {
			a = append(a, "cause", cause.Sentence())
		}
		if !stranger {
			r.log.Warn("connection refused", a...)
		} else {
			name := info.ServerName[:min(len(info.ServerName), 253)]
			r.loop.Go(func() { // it looks at every chain of the listener
				r.log.Warn("connection refused", append(a, "sni", name, "nearest", nearestServers(c, name))...)
			})
		}
		r.told, r.untold = now, 0
	} else {
		r.untold++
	}
}

// keep records a connection that was refused, unless there are many: weir_proxy_refused_connections_total counts all.
func (r *refusals) keep(info *conn.Info, l *listener.Config, chain *listener.Chain, cause causes.Cause, err error) {
	now := r.loop.Wall()
	c := r.records.Refused(cause, now)
	if c == nil {
		return
	}
	c.Start, c.Cause, c.Details, c.Listener = now, cause, cause.Details(), l.Name
	if err != nil {
		c.Details += "{" + err.Error() + "}"
	}
	c.Labels = observe.Labels{Reporter: observe.Source, Source: r.self, Protocol: "tcp", GRPCStatus: -1, Flags: cause.Flag()}
	if inbound(l) {
		c.Labels.Reporter, c.Labels.Source, c.Labels.Destination = observe.Destination, nil, r.self
	}
	c.Client, c.Asked = records.AddrOf(info.Remote), records.AddrOf(info.Asked())
	if cause == causes.FilterChainNotFound {
		c.Set(records.Authority, []byte(info.ServerName)) // which nobody has, perhaps
	}
	if chain != nil {
		c.Deciders = decidersOf(chain)[observe.Serving]
	} else if cause == causes.FilterChainNotFound {
		c.Deciders = servers(l)
	}
}

func decidersOf(c *listener.Chain) observe.Deciders {
	switch f := c.Filters.(type) {
	case *http.Config:
		return f.Deciders
	case *tcp.Config:
		return f.Deciders
	}
	return nil
}

// mostServers is how many objects are told of that say what a listener serves, of so many chains.
const mostServers, mostLooked = 4, 256

// servers are the objects that say what a listener serves: none of them serves who was refused.
func servers(l *listener.Config) (out []observe.Origin) {
	for _, c := range l.Chains[:min(len(l.Chains), mostLooked)] {
		for _, o := range decidersOf(c)[observe.Serving] {
			if len(out) < mostServers && !slices.ContainsFunc(out, func(x observe.Origin) bool { return x.Object().Config == o.Object().Config }) {
				out = append(out, o)
			}
		}
	}
	return out
}

// inbound reports whether a listener is the workload's own.
func inbound(c *listener.Config) bool {
	for _, ch := range c.Chains {
		switch f := ch.Filters.(type) {
		case *http.Config:
			return f.Direction == http.Inbound
		case *tcp.Config:
			return f.Inbound
		}
	}
	return false
}

// logs are the access logs of what a listener serves.
func logs(c *listener.Config) []observe.AccessLog {
	for _, ch := range c.Chains {
		switch f := ch.Filters.(type) {
		case *http.Config:
			return f.Logs
		case *tcp.Config:
			return f.Logs
		}
	}
	return nil
}

// writeRefusals writes how many connections were refused, by reason.
func (p *Proxy) writeRefusals(out io.Writer) error {
	total := map[listener.Refusal]uint64{}
	p.each(func(w *worker) {
		s := w.accept.Stats()
		for _, why := range listener.Refusals() {
			total[why] += s.Refused[why]
		}
	})
	if _, err := fmt.Fprint(out, "# HELP weir_proxy_refused_connections_total Connections that were not served.\n# TYPE weir_proxy_refused_connections_total counter\n"); err != nil {
		return err
	}
	for _, why := range listener.Refusals() {
		if _, err := fmt.Fprintf(out, "weir_proxy_refused_connections_total{reason=%q} %d\n", why, total[why]); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "# HELP weir_proxy_connections Open connections of clients.\n# TYPE weir_proxy_connections gauge\nweir_proxy_connections %d\n"+
		"# HELP weir_proxy_descriptors Descriptors of sockets of this process, and how many it may have.\n# TYPE weir_proxy_descriptors gauge\n"+
		"weir_proxy_descriptors{of=\"sockets\"} %d\nweir_proxy_descriptors{of=\"limit\"} %d\n", p.group.Open(), p.o.Census.Descriptors(), p.descriptors)
	if err != nil {
		return err
	}
	return p.pressure.write(out)
}
