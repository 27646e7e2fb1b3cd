package identity

import "time"

const (
	// renewSpread spreads renewals over 40 to 60 % of a certificate's life, so
	// that a mesh that started at once does not renew at once.
	renewSpread = 0.1

	// firstRetry lets a proxy that starts beside its control plane be ready well
	// within the half second a cold start may take.
	firstRetry = 100 * time.Millisecond
	// retryHolding: a certificate is held, nobody suffers yet. A thousand
	// proxies ask 3 times a second together.
	retryHolding = 5 * time.Minute
	// retryBare: no usable certificate, the workload is cut off. When the
	// authority comes back, nobody waits longer than this.
	retryBare = 10 * time.Second
	// triesLeft: a retry waits for at most this part of what is left, so that the
	// last hour of a certificate sees dozens of attempts.
	triesLeft = 8
	// leastRetry bounds the attempts of the last seconds.
	leastRetry = time.Second
)

// Rotation decides when to ask for a certificate. It is a pure machine: events
// come in with the wall clock's time, Wait says how long nothing is to be done.
// Wall-clock time, because the ends of certificates are: it may jump either way
// between two events (a laptop wakes, a clock is set), and each answer of Wait
// follows from the present time alone.
type Rotation struct {
	Rand func() float64 // uniform in [0,1), for jitter; called by events, not by Wait

	from, until time.Time // the certificate held; zero: none
	due         time.Time // when to ask; zero: now
	failures    int       // since the last success
}

// Holding reports whether the certificate held is good.
func (r *Rotation) Holding(now time.Time) bool {
	return !now.Before(r.from) && now.Before(r.until)
}

// Hold takes over a certificate whose date of receipt is not known.
func (r *Rotation) Hold(from, until time.Time) {
	r.from, r.until = from, until
	r.due = r.renewAt(from)
}

// Signed takes an answer of the authority. It reports whether the certificate is
// to be used: an answer that is no good by our clock does not replace one that is,
// and counts as a failure, for asking again at once would give the same.
func (r *Rotation) Signed(now, from, until time.Time) (use, good bool) {
	good = !now.Before(from) && now.Before(until)
	if !good && r.Holding(now) {
		r.Failed(now)
		return false, false
	}
	r.from, r.until = from, until
	if !good {
		r.Failed(now)
		return true, false
	}
	r.failures = 0
	// Counted from now: a short life that is backdated for clock skew would be
	// half over on arrival.
	r.due = r.renewAt(now)
	return true, true
}

// Failed takes note that the authority gave none.
func (r *Rotation) Failed(now time.Time) {
	r.failures++
	delay := r.retryCap(now)
	if n := r.failures - 1; n < 20 { // 2^20 × firstRetry is more than a day
		delay = min(delay, firstRetry<<n)
	}
	r.due = now.Add(time.Duration(float64(delay) * (0.75 + 0.5*r.Rand())))
}

// Wait is the time until the next request; zero: now.
func (r *Rotation) Wait(now time.Time) time.Duration {
	if r.due.IsZero() {
		return 0
	}
	wait := r.due.Sub(now)
	if r.failures > 0 {
		// The clock may have been set back since, or a certificate have expired:
		// no retry is further away than one decided now could be.
		wait = min(wait, r.retryCap(now)*5/4)
	} else if !r.Holding(now) {
		wait = 0 // the clock was set, or we slept
	}
	return max(wait, 0)
}

func (r *Rotation) renewAt(start time.Time) time.Time {
	half := 0.5 + renewSpread*(2*r.Rand()-1)
	return start.Add(time.Duration(float64(r.until.Sub(start)) * half))
}

func (r *Rotation) retryCap(now time.Time) time.Duration {
	if !r.Holding(now) {
		return retryBare
	}
	return max(leastRetry, min(retryHolding, r.until.Sub(now)/triesLeft))
}
