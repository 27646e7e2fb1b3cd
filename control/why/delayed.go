package why

import (
	"time"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// impatient are the causes by which a caller did not wait any longer.
var impatient = map[causes.Cause]bool{causes.UpstreamTimeout: true, causes.UpstreamPerTryTimeout: true, causes.DownstreamDisconnected: true, causes.DownstreamReset: true}

// delayed is the hop at which a delay on purpose took most of the time that another one, which caused its call, waited for; -1: there is none.
func delayed(chain []Told, hop int) int {
	c, _ := causes.Named(chain[hop].Record.GetCause())
	if !impatient[c] {
		return -1
	}
	below := map[int]bool{hop: true}
	longest, out := patience(c, chain[hop].Record)/2, -1
	for j := hop + 1; j < len(chain); j++ {
		for i := range below {
			if leads(chain[i].Record, chain[j].Record) || serves(chain[i], chain[j]) {
				below[j] = true
				break
			}
		}
		if d := delay(chain[j].Record); below[j] && d > longest {
			longest, out = d, j
		}
	}
	return out
}

// patience is how long a caller waited; of several attempts, for the last.
func patience(c causes.Cause, r *observev1.Record) time.Duration {
	if t := r.GetTries(); c == causes.UpstreamPerTryTimeout && len(t) > 0 && t[len(t)-1].GetEndedNano() > t[len(t)-1].GetBeganNano() {
		return time.Duration(t[len(t)-1].GetEndedNano() - t[len(t)-1].GetBeganNano())
	}
	return time.Duration(r.GetEndedNano())
}

// delay is how long a request was delayed on purpose: until the first attempt, or for as long as somebody waited.
func delay(r *observev1.Record) time.Duration {
	switch {
	case causes.Parse(r.GetFlags())&causes.DelayInjected == 0:
		return 0
	case len(r.GetTries()) > 0:
		return time.Duration(r.GetTries()[0].GetBeganNano())
	case r.GetAttempts() > 0: // of which nobody says when
		return 0
	}
	return time.Duration(r.GetEndedNano())
}

// waited says how a caller ended its waiting.
func waited(t *Told) string {
	c, _ := causes.Named(t.Record.GetCause())
	return "most of the " + patience(c, t.Record).Round(time.Millisecond).String() + " that the call to " + target(t.Record) + " was given, which ended as " + c.Name()
}

// onTheWay are the objects by which a caller did not wait any longer: not what is wrong.
func onTheWay(t *Told, objects Objects) (out []apiv1.Decider) {
	c, _ := causes.Named(t.Record.GetCause())
	for _, d := range deciders(found{cause: c}, t, objects) {
		if d.Field != "" {
			d.Field = ""
			out = append(out, d)
		}
	}
	return out
}
