// Package fault injects delays and aborts on purpose (Envoy's HTTPFault), to learn
// how an application takes them.
//
// Two stages, because an abort follows its delay. What enters: the fault of the
// request's route, or the filter's own for routes without one, and the
// x-envoy-fault headers where the fault lets them ask. What leaves: a held
// exchange, a reply with the cause FaultAbort, flags DI and FI. The stages keep
// nothing and are shared by all workers.
package fault

import (
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

const perMillion = 1_000_000

// maxDelay bounds what a request may ask for: an hour.
const maxDelay = 3_600_000

// Stages are the delay and the abort. own is the filter's configuration, for routes that have none; nil: no fault there.
func Stages(own *route.Fault) []http.Stage {
	of := func(x *http.Exchange) *route.Fault {
		f := own
		if x.Route != nil && x.Route.Fault != nil {
			f = x.Route.Fault
		}
		if f != nil && f.Cluster != "" && x.TargetName() != f.Cluster {
			return nil
		}
		return f
	}
	return []http.Stage{
		{Name: "fault delay", Request: func(x *http.Exchange) http.Verdict {
			if f := of(x); f != nil {
				return delay(x, f)
			}
			return http.Continue
		}},
		{Name: "fault abort", Request: func(x *http.Exchange) http.Verdict {
			if f := of(x); f != nil {
				return abort(x, f)
			}
			return http.Continue
		}},
	}
}

func delay(x *http.Exchange, f *route.Fault) http.Verdict {
	d := f.Delay
	share := f.DelayPer1M
	if f.HeaderDelay {
		h := &x.Request.Headers
		ms, ok := number(h.Get(message.XEnvoyFaultDelayRequest), maxDelay)
		if !ok {
			return http.Continue
		}
		d = time.Duration(ms) * time.Millisecond
		share = asked(h.Get(message.XEnvoyFaultDelayRequestPercentage), share)
	}
	if d <= 0 || !hit(x, share) {
		return http.Continue
	}
	x.Flag(causes.DelayInjected)
	return x.HoldFor(d)
}

func abort(x *http.Exchange, f *route.Fault) http.Verdict {
	status, grpc := f.AbortStatus, f.AbortGRPC
	share := f.AbortPer1M
	if f.HeaderAbort {
		h := &x.Request.Headers
		status, grpc = 0, -1
		if n, ok := number(h.Get(message.XEnvoyFaultAbortRequest), 599); ok && n >= 200 {
			status = int(n)
		} else if n, ok := number(h.Get(message.XEnvoyFaultAbortGRPCRequest), 16); ok {
			grpc = int(n)
		}
		share = asked(h.Get(message.XEnvoyFaultAbortRequestPercentage), share)
	}
	if status == 0 && grpc < 0 || !hit(x, share) {
		return http.Continue
	}
	body := x.Arena().CopyString(causes.FaultAbort.Body())
	if grpc >= 0 {
		return x.ReplyGRPC(causes.FaultAbort, grpc, body)
	}
	return x.ReplyWith(causes.FaultAbort, status, body)
}

// asked is the share a request asks for, in per cent, at most the configured one.
func asked(header []byte, configured uint32) uint32 {
	if n, ok := number(header, 100); ok {
		return min(uint32(n)*(perMillion/100), configured)
	}
	return configured
}

func hit(x *http.Exchange, share uint32) bool {
	return share >= perMillion || share > 0 && x.Worker().Loop().Rand()%perMillion < uint64(share)
}

func number(b []byte, limit uint64) (uint64, bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	n := uint64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, n <= limit
}
