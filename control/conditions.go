package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

const (
	// jumpTold is how long a jump of a clock is spoken of: what it broke is over within minutes (proxies renew before they serve again), and
	// who comes back to a machine that slept looks within the hour. `weir proxy identity` tells of it for ever.
	jumpTold = time.Hour
	// overflowTold is how long it is said that there were too many series, since the last one for which there was no room.
	overflowTold = time.Hour
	// maxTold is how many proxies are named by findings of a kind.
	maxTold = 20
	// maxRootText bounds a serial number in hexadecimal: they have 20 bytes at most (RFC 5280).
	maxRootText = 64
	// sameJump is how far apart jumps may be that are one: of proxies on one machine, which notice it within 30 s of each other.
	sameJump = time.Minute
)

// condition is what a proxy said of itself, dated by the clock of the control plane that heard it.
type condition struct {
	Proxy      string        `json:"proxy"` // namespace/name
	Ahead      time.Duration `json:"ahead"` // its clock, of that of the control plane
	Jump       time.Duration `json:"jump,omitempty"`
	Jumped     time.Time     `json:"jumped,omitzero"`
	Error      string        `json:"error,omitempty"` // of the last attempt to renew
	Failed     time.Time     `json:"failed,omitzero"`
	Overflow   uint64        `json:"overflow,omitempty"`
	Overflowed time.Time     `json:"overflowed,omitzero"`
	Crowded    string        `json:"crowded,omitempty"` // what was counted there most
}

// hear takes what a proxy says of itself, and refuses what could not be that.
func (r *reporter) hear(c *observev1.Condition, now time.Time) error {
	if len(c.GetRenewalError()) > maxReportText {
		return fmt.Errorf("an error of %d bytes, more than %d", len(c.GetRenewalError()), maxReportText)
	}
	said := time.Unix(0, int64(c.GetTimeUnixNano()))
	then := func(at uint64) time.Time { return now.Add(-max(0, said.Sub(time.Unix(0, int64(at))))) }
	x := &condition{Proxy: workloadOf(r.node), Ahead: said.Sub(now), Error: c.GetRenewalError(), Jump: time.Duration(c.GetClockJumpNano()), Overflow: c.GetOverflow()}
	if x.Jump != 0 {
		x.Jumped = then(c.GetClockJumpUnixNano())
	}
	if x.Error != "" {
		x.Failed = then(c.GetRenewalErrorUnixNano())
	}
	if x.Overflow > 0 {
		x.Overflowed = then(c.GetOverflowUnixNano())
		if e := c.GetCrowd(); e != nil {
			if err := sound(e); err != nil {
				return err
			}
			x.Crowded = crowded(e)
		}
	}
	r.condition.Store(x)
	return nil
}

// crowded says where there are too many series, and in which metric.
func crowded(e *observev1.Edge) string {
	what, metric := "calls to ", "istio_requests_total"
	if e.GetSide() == observev1.Side_SIDE_DESTINATION {
		what = "calls that it serves as "
	}
	if e.GetProtocol() == "tcp" {
		metric = "istio_tcp_connections_opened_total"
	}
	s := e.GetService()
	host := cmp.Or(s.GetHost(), s.GetName(), "services that are not known")
	if s.GetPort() > 0 {
		host += fmt.Sprintf(":%d", s.GetPort())
	}
	return what + host + " (" + metric + ")"
}

// worthTelling reports whether anybody is to be told of it without asking.
func (c *condition) worthTelling(now time.Time) bool { return c.jumps(now) || c.overflows(now) }

func (c *condition) jumps(now time.Time) bool { return c.Jump != 0 && now.Sub(c.Jumped) < jumpTold }

func (c *condition) overflows(now time.Time) bool {
	return c.Overflow > 0 && now.Sub(c.Overflowed) < overflowTold
}

// conditionFindings are what proxies said of themselves and somebody has to know.
func conditionFindings(all []condition, now time.Time) []config.Finding {
	return append(jumpFindings(all, now), overflowFindings(all, now)...)
}

// jumpFindings are about clocks that jumped, one for those that jumped together.
func jumpFindings(all []condition, now time.Time) (out []config.Finding) {
	all = slices.DeleteFunc(slices.Clone(all), func(c condition) bool { return !c.jumps(now) })
	slices.SortFunc(all, func(a, b condition) int { return cmp.Or(cmp.Compare(a.Jump, b.Jump), cmp.Compare(a.Proxy, b.Proxy)) })
	for len(all) > 0 && len(out) < maxTold {
		n := 1
		for n < len(all) && all[n].Jump-all[0].Jump < sameJump {
			n++
		}
		together := all[:n]
		all = all[n:]
		names := make([]string, n)
		for i := range together {
			names[i] = together[i].Proxy
		}
		slices.Sort(names)
		first := &together[slices.IndexFunc(together, func(c condition) bool { return c.Proxy == names[0] })]
		how := "by " + first.Jump.Round(time.Second).String() + " ahead: the machine slept, or its clock was set"
		if first.Jump < 0 {
			how = "back by " + (-first.Jump).Round(time.Second).String() + ": it was set"
		}
		message := fmt.Sprintf("the clock of its machine jumped at %s, %s", first.Jumped.UTC().Format(time.RFC3339), how)
		if first.Ahead.Abs() > clocksApart {
			message += fmt.Sprintf("; it is %s the control plane's", offBy(first.Ahead))
		}
		out = append(out, config.New(config.ClockJumped, podRef(names[0]), "", 0, message+besides("so did those of", names),
			"nothing, if it slept: certificates are renewed before calls are made; what failed about that time failed for that. A clock that is wrong has to be set: certificates that seem ended, or not begun, are refused"))
	}
	return out
}

func offBy(ahead time.Duration) string {
	if ahead < 0 {
		return (-ahead).Round(time.Second).String() + " behind"
	}
	return ahead.Round(time.Second).String() + " ahead of"
}

// overflowFindings are about proxies for whose metrics peers made up too much.
func overflowFindings(all []condition, now time.Time) (out []config.Finding) {
	all = slices.DeleteFunc(slices.Clone(all), func(c condition) bool { return !c.overflows(now) })
	slices.SortFunc(all, func(a, b condition) int {
		return cmp.Or(cmp.Compare(b.Overflow, a.Overflow), cmp.Compare(a.Proxy, b.Proxy))
	})
	for _, c := range all[:min(len(all), maxTold)] {
		message := fmt.Sprintf("its proxy has too many series of metrics: %d requests and connections were counted as those of workload __overflow__, the last one at %s", c.Overflow, c.Overflowed.UTC().Format(time.RFC3339))
		if c.Crowded != "" {
			message += ", most of them " + c.Crowded
		}
		out = append(out, config.New(config.TooManySeries, podRef(c.Proxy), "", 0, message,
			"find the label of that metric that has thousands of values (workload names, identities, statuses), and who sends them; series go when the proxy is restarted"))
	}
	return out
}

// dependants are those whose certificates lead to one root.
type dependants struct {
	Count int       `json:"count"`
	Until time.Time `json:"until"`           // the end of the last one
	Names []string  `json:"names,omitempty"` // some of them
}

// mostNamed is how many are named where others are counted.
const mostNamed = 3

// add counts others, who are none of those counted already.
func (d *dependants) add(o dependants) {
	d.Count += o.Count
	if o.Until.After(d.Until) {
		d.Until = o.Until
	}
	d.Names = slices.Sorted(slices.Values(append(d.Names, o.Names...)))
	d.Names = d.Names[:min(len(d.Names), mostNamed)]
}

// dependOn is who says to lead to which root, by its serial number.
func (p *Plane) dependOn(now time.Time) map[string]dependants {
	out := map[string]dependants{}
	for _, r := range p.edges.asking.list() {
		c := r.held.Load()
		if c == nil || c.root == "" || !now.Before(c.until) {
			continue
		}
		d := out[c.root]
		d.add(dependants{1, c.until, []string{workloadOf(r.node)}})
		out[c.root] = d
	}
	return out
}

// rootFindings are about roots that are to be trusted no longer, or are not, and to which certificates in use lead.
func rootFindings(roots []apiv1.IdentityRoot, on map[string]dependants, domain string, now time.Time) (out []config.Finding) {
	for _, serial := range slices.Sorted(maps.Keys(on)) {
		d := on[serial]
		have := fmt.Sprintf("of %d connected workload%s (%s)", d.Count, map[bool]string{true: "s"}[d.Count != 1], strings.Join(d.Names, ", ")+map[bool]string{true: ", …"}[d.Count > len(d.Names)])
		until := d.Until.UTC().Format(time.RFC3339)
		i := slices.IndexFunc(roots, func(r apiv1.IdentityRoot) bool { return r.Serial == serial })
		message, hint := "", "wait, and leave it to the control plane: they renew by themselves. Who does not is named by WEIR0115; a restart renews at once"
		switch {
		case i < 0:
			message = fmt.Sprintf("the root of serial %s is trusted no longer, and certificates %s lead to it, the last one until %s: who has renewed refuses them", clip(serial), have, until)
			hint = "restart them, so that they get other certificates; or put the root back into root-cert.pem (ca.crt) until then, unless it was stolen"
		case roots[i].Retires.IsZero(), roots[i].Succeeds && !d.Until.After(roots[i].Retires): // one that the mesh succeeds by itself is waited for
			continue
		default:
			message = fmt.Sprintf("the root %q (serial %s) is to be retired, and certificates %s lead to it, the last one until %s: it stays trusted until %s",
				roots[i].Name, serial, have, until, roots[i].Retires.UTC().Format(time.RFC3339))
		}
		if len(out) == maxTold {
			break
		}
		out = append(out, config.New(config.RootStillNeeded, mesh.Ref{Kind: "CertificateAuthority", Name: domain}, "", 0, message, hint))
	}
	return out
}

// podRef is the pod of a proxy, by namespace/name.
func podRef(proxy string) mesh.Ref {
	namespace, name, _ := strings.Cut(proxy, "/")
	return mesh.Ref{Kind: "Pod", Namespace: cmp.Or(namespace, "default"), Name: name}
}

// besides names some of those besides the first of whom the same is to be said; "" of none.
func besides(same string, names []string) string {
	if len(names) < 2 {
		return ""
	}
	more := names[1:min(len(names), mostNamed)]
	return fmt.Sprintf("; %s %d others: %s", same, len(names)-1, strings.Join(more, ", ")+map[bool]string{true: ", …"}[len(names) > mostNamed])
}
