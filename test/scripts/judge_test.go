package scripts

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// observed is what came of calls.
type observed struct {
	share    float64
	pods     []string // that answered, or may
	status   int      // 0: not HTTP, or not known
	flags    string
	words    map[string]string // see outcome; a header that is not there is missing
	request  map[string]string // of the request at the pod
	response map[string]string
	mirrored []string
	took     time.Duration
	// certain says that pods are all that may answer, partial that what applications do with
	// time is not known, and therefore no status.
	certain, partial bool
	// early says that arrivals at pods are not known yet: no attempts and copies.
	early bool
	// refused says that the client's TLS handshake did not come about.
	refused bool
}

func (o *observed) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.4g%% %s %d %s", 100*o.share, strings.Join(o.pods, "|"), o.status, o.flags)
	for _, k := range slices.Sorted(mapsKeys(o.words)) {
		fmt.Fprintf(&b, " %s=%s", k, o.words[k])
	}
	if len(o.mirrored) > 0 {
		fmt.Fprintf(&b, " mirrored=%s", strings.Join(o.mirrored, ","))
	}
	for _, k := range slices.Sorted(mapsKeys(o.response)) {
		fmt.Fprintf(&b, " resp.%s=%s", k, o.response[k])
	}
	return b.String()
}

func mapsKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// differs says how what was observed is not what is wanted; "" if it is.
func (w *outcome) differs(o *observed, kind string) string {
	if w.refused || o.refused {
		if w.refused != o.refused {
			return fmt.Sprintf("refused: %t", o.refused)
		}
		return ""
	}
	inHTTP := kind != "tcp" && kind != "tls"
	switch {
	case len(w.pods) == 0 && len(o.pods) > 0 && o.flags == "" && !o.partial:
		return "a pod answered"
	case len(w.pods) > 0 && len(o.pods) == 0:
		return "no pod answered"
	case o.certain && len(w.pods) > 0 && !slices.Equal(w.pods, o.pods), len(w.pods) > 0 && slices.ContainsFunc(o.pods, func(p string) bool { return !slices.Contains(w.pods, p) }):
		return "another pod"
	}
	status := w.status
	if status == 0 && (len(w.pods) > 0 || kind == "grpc") && inHTTP {
		status = http.StatusOK
	}
	if !o.partial && status != o.status && inHTTP {
		return fmt.Sprintf("status %d", o.status)
	}
	if !o.partial && w.flags != o.flags {
		return "flags " + o.flags
	}
	for _, k := range slices.Sorted(mapsKeys(w.words)) {
		if diff := w.word(k, o); diff != "" {
			return diff
		}
	}
	for _, name := range w.absent {
		headers := o.request
		if strings.HasPrefix(name, "resp.") {
			headers = o.response
		}
		_, short, _ := strings.Cut(name, ".")
		if v, ok := headers[short]; ok {
			return name + " is there: " + v
		}
	}
	if o.early {
		return ""
	}
	if want := strings.Split(w.mirrored, ","); w.mirrored == "" && len(o.mirrored) > 0 || w.mirrored != "" && !slices.Equal(want, o.mirrored) {
		return "mirrored to " + strings.Join(o.mirrored, ",")
	}
	return ""
}

// word judges one word with a value.
func (w *outcome) word(k string, o *observed) string {
	want, got, ok := w.words[k], "", false
	switch {
	case k == "within" || k == "after":
		limit, _ := time.ParseDuration(want)
		if o.took > 0 && (k == "within" && o.took > limit || k == "after" && o.took < limit) {
			return fmt.Sprintf("took %v", o.took)
		}
		return ""
	case k == "attempts":
		if got = o.words[k]; got == "" { // unknown
			return ""
		}
		ok = true
	case strings.HasPrefix(k, "req."):
		got, ok = o.request[k[len("req."):]]
	case strings.HasPrefix(k, "resp."):
		if got, ok = o.response[k[len("resp."):]]; !ok && o.partial {
			return ""
		}
	default:
		if got, ok = o.words[k]; !ok && o.partial {
			return ""
		}
	}
	if !ok || got != want && want != "*" && !strings.Contains(got, unknown) {
		return k + "=" + got
	}
	return ""
}

// unknown stands in values for what only a proxy that runs can know.
const unknown = "\x00"

// judge holds what was observed against what a call wants; slack is how far shares may be
// off, in standard deviations of n draws.
func (c *call) judge(all []observed, n int) string {
	got := make([]float64, len(c.want))
	for i := range all {
		var why []string
		if !slices.ContainsFunc(c.want, func(w outcome) bool {
			diff := w.differs(&all[i], c.kind)
			why = append(why, diff)
			if diff == "" {
				got[slices.IndexFunc(c.want, func(x outcome) bool { return x.text == w.text })] += all[i].share
			}
			return diff == ""
		}) {
			return fmt.Sprintf("%v: %s", &all[i], strings.Join(why, "; "))
		}
	}
	if len(all) > 0 && all[0].early {
		return ""
	}
	for i, w := range c.want {
		off := 0.0001
		if n > 0 {
			off += 3/float64(n) + 4.5*math.Sqrt(w.share*(1-w.share)/float64(n))
		}
		if math.Abs(got[i]-w.share) > off {
			return fmt.Sprintf("%q: %s%% of the calls", w.text, strconv.FormatFloat(100*got[i], 'f', 2, 64))
		}
	}
	return ""
}
