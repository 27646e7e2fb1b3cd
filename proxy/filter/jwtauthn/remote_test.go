package jwtauthn

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/internal/jwt"
)

// fetch is provider.ask, of who knows nothing of marks.
func (p *provider) fetch(ctx context.Context, from *Remote) (string, error) {
	if from.Authority != p.uri {
		return "", errors.New("somebody else")
	}
	return p.ask(ctx, p.uri)
}

func (p *provider) publishPlain(list ...signer) {
	s := set(list...)
	p.text.Store(&s)
}

// at is a provider's Remote.
func at(authority string) Remote {
	return Remote{Scheme: "https", Authority: authority, Path: "/keys", Timeout: 5 * time.Second, Fresh: 10 * time.Minute, Base: time.Second, Max: 10 * time.Second}
}

func uses(list ...*Source) map[*Source]bool {
	m := map[*Source]bool{}
	for _, s := range list {
		m[s] = true
	}
	return m
}

// A set is fetched as soon as it is in use, and tokens that come earlier wait for it. Another configuration with the same place
// has the keys there are, and asks nobody for them, also when its settings are others, and when the listener was away for a while.
func TestRemoteFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := &provider{uri: "p", delay: 2 * time.Second}, newSigner("k")
		p.publishPlain(k)
		sets := NewSets(nil, p.fetch)
		defer sets.Close()
		src := sets.Remote(at("p"))
		synctest.Wait()
		if n := p.asked.Load(); n != 0 {
			t.Fatalf("fetched %d times for a configuration that may be refused yet", n)
		}
		sets.Keep(uses(src))
		began := time.Now()
		if s, _ := src.verify(parsed(k.sign(`{}`))); s != jwt.OK || time.Since(began) != p.delay {
			t.Fatal(s, time.Since(began))
		}
		other := at("p")
		other.Fresh = time.Hour
		for i, r := range []Remote{at("p"), other, at("p")} {
			next := sets.Remote(r)
			sets.Keep(nil)
			time.Sleep(time.Minute)
			sets.Keep(uses(next))
			if s, _ := next.verify(parsed(k.sign(`{}`))); s != jwt.OK {
				t.Errorf("swap %d: %v", i, s)
			}
		}
		if n := p.asked.Load(); n != 1 {
			t.Errorf("fetched %d times", n)
		}
		time.Sleep(10 * time.Minute)
		if n := p.asked.Load(); n != 2 {
			t.Errorf("fetched %d times when cache_duration was over", n)
		}
		sets.Keep(nil)
		time.Sleep(time.Hour)
		if n := p.asked.Load(); n != 2 {
			t.Errorf("fetched %d times, and nobody uses it", n)
		}
		for i := range 10 * maxUnused {
			r := at("p")
			r.Fresh += time.Duration(i)
			sets.Remote(r)
			sets.Keep(nil)
		}
		if n := len(sets.remote); n > maxUnused+1 {
			t.Errorf("%d sets that nobody uses are remembered", n)
		}
	})
}

// The last good set stays when the provider is away, or says what is none; it is asked again and again, less and less often,
// and its new keys are there a minute after it is back at the latest.
func TestRemoteAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k, next := &provider{uri: "p"}, newSigner("k"), newSigner("next")
		p.publishPlain(k)
		sets := NewSets(nil, p.fetch)
		defer sets.Close()
		src := sets.Remote(at("p"))
		sets.Keep(uses(src))
		synctest.Wait()
		for _, text := range []*string{nil, new(`<html>`), new(`{"keys":[]}`), new(`{"keys":[],"weir.dev":{"placeholder":true}}`), new(jwt.Placeholder("x"))} {
			p.text.Store(text)
			before := p.asked.Load()
			for range 60 {
				time.Sleep(time.Minute)
				if s, _ := src.verify(parsed(k.sign(`{}`))); s != jwt.OK {
					t.Fatalf("%v: %v", text, s)
				}
			}
			if n := p.asked.Load() - before; n < 5 || n > 150 {
				t.Errorf("asked %d times in an hour", n)
			}
		}
		p.publishPlain(next)
		time.Sleep(10*time.Minute + time.Second) // the last thing it said was a set, which is asked for again when it is old
		if s, _ := src.verify(parsed(next.sign(`{}`))); s != jwt.OK {
			t.Error(s)
		}
	})
}

// retry_policy says how soon a fetch is repeated, failed_refetch_duration what comes then.
func TestRemoteRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Duration
		began := time.Now()
		sets := NewSets(nil, func(context.Context, *Remote) (string, error) {
			times = append(times, time.Since(began))
			return "", errors.New("away")
		})
		defer sets.Close()
		r := at("p")
		r.Retries, r.Base, r.Max, r.Again = 3, 100*time.Millisecond, 150*time.Millisecond, time.Minute
		sets.Keep(uses(sets.Remote(r)))
		time.Sleep(2*time.Minute + 30*time.Second)
		sets.Close()
		synctest.Wait()
		if len(times) != 6 || times[3] < 200*time.Millisecond || times[3] > 400*time.Millisecond || times[4]-times[3] != time.Minute || times[5]-times[4] != time.Minute {
			t.Error(times)
		}
	})
}

// Keys replaced without overlap cost no valid token; tokens with keys that do not exist have the provider asked every two
// seconds at most, and may delay a rotation by as much.
func TestRemoteRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cur := &provider{uri: "p", delay: 20 * time.Millisecond}, newSigner("0")
		p.publishPlain(cur)
		sets := NewSets(nil, p.fetch)
		defer sets.Close()
		src := sets.Remote(at("p"))
		sets.Keep(uses(src))
		time.Sleep(time.Second)
		for i := range 20 {
			cur = newSigner(string(rune('a' + i)))
			p.publishPlain(cur)
			taken(t, p, src, cur, i)
			time.Sleep(time.Second)
		}
		before := p.asked.Load()
		for i := range 600 {
			tok := parsed(newSigner(string(rune(i + 1000))).sign(`{}`))
			go src.verify(tok)
			time.Sleep(100 * time.Millisecond)
		}
		if n := p.asked.Load() - before; n < 25 || n > 40 {
			t.Errorf("asked %d times in a minute", n)
		}
		time.Sleep(calm)
	})
}

// A provider that never answers delays nobody who has a token of another.
func TestRemoteIsolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, k := &provider{uri: "good"}, newSigner("k")
		good.publishPlain(k)
		sets := NewSets(nil, func(ctx context.Context, from *Remote) (string, error) {
			if from.Authority == "good" {
				return good.fetch(ctx, from)
			}
			<-ctx.Done()
			return "", ctx.Err()
		})
		defer sets.Close()
		fine, stuck := sets.Remote(at("good")), sets.Remote(at("stuck"))
		sets.Keep(uses(fine, stuck))
		began := time.Now()
		for range 100 {
			go stuck.verify(parsed(k.sign(`{}`)))
		}
		if s, _ := fine.verify(parsed(k.sign(`{}`))); s != jwt.OK || time.Since(began) > 0 {
			t.Error(s, time.Since(began))
		}
		if s, _ := stuck.verify(parsed(k.sign(`{}`))); s != jwt.NoKeys || time.Since(began) != maxFirst {
			t.Error(s, time.Since(began))
		}
	})
}
