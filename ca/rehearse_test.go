package ca

import (
	"slices"
	"strings"
	"testing"
	"time"
)

var rehearsalDay = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// Ten years, with nobody to sign for 40 % of the time (for up to three days on end), machines
// that sleep, and roots that live for one year each: no workload is without a certificate while it
// could have one, and none that has a good one is refused by another.
func TestTenYears(t *testing.T) {
	for seed := range uint64(2) {
		r := Rehearsal{From: rehearsalDay, Until: rehearsalDay.AddDate(10, 0, 0), Seed: seed, Succeeds: true,
			Roots: []Root{{rehearsalDay.Add(-backdate), rehearsalDay.AddDate(1, 0, 0), true}}, Longest: 3 * day,
			Away: 0.4, Spell: 72 * time.Hour, Sleeps: true, Workloads: 3, life: 365 * day}.Run()
		for _, l := range r.Lapses {
			if l.Avoidable {
				t.Errorf("seed %d: avoidable: %+v", seed, l)
			}
		}
		if len(r.Refusals) > 0 {
			t.Errorf("seed %d: %v", seed, r.Refusals)
		}
		retired := 0
		for _, e := range r.Events {
			if strings.Contains(e.What, "no longer trusted") {
				retired++
			}
		}
		if retired < 9 {
			t.Errorf("seed %d: %d roots of a year are retired in ten years", seed, retired)
		}
		// Awake some two thirds of the time, one for each twelve hours in which somebody signs.
		if r.Issued < 6_000 || r.Issued > 21_000 || r.Refused < 1_000 {
			t.Errorf("seed %d: %d issued, %d refused; the rehearsal does not do what it says", seed, r.Issued, r.Refused)
		}
		if seed > 0 {
			continue
		}
		// A whole day without an authority is survived where spells are shorter than half a life.
		if !slices.ContainsFunc(r.Lapses, func(l Lapse) bool { return strings.Contains(l.Why, "nobody was there") }) {
			t.Error("three days without an authority did nobody harm")
		}
	}
}

// An authority that is never away for longer than a certificate lasts after its renewal is due is not
// missed by whoever is awake.
func TestShortOutagesAreNotNoticed(t *testing.T) {
	r := Rehearsal{From: rehearsalDay, Until: rehearsalDay.AddDate(3, 0, 0), Succeeds: true, Away: 0.4, Spell: 9 * time.Hour,
		Roots: []Root{{rehearsalDay, rehearsalDay.AddDate(1, 0, 0), true}}}.Run()
	// The very first certificate may have to be waited for.
	r.Lapses = slices.DeleteFunc(r.Lapses, func(l Lapse) bool { return l.From.Equal(rehearsalDay) })
	if len(r.Lapses)+len(r.Refusals) > 0 {
		t.Errorf("%+v %v", r.Lapses, r.Refusals)
	}
	var events []string
	for _, e := range r.Events {
		events = append(events, e.What)
	}
	// 270 days before the end of the first year, which is less than half of it.
	want := "root 2 is made, and trusted beside the others from now on|root 2 signs instead of root 1|root 1 is no longer trusted: no certificate leads to it"
	if got := strings.Join(events, "|"); got != want {
		t.Errorf("%s", got)
	}
}

// What nobody replaces ends, and the rehearsal says when.
func TestRehearsalOfAnEnd(t *testing.T) {
	end := rehearsalDay.AddDate(1, 0, 0)
	r := Rehearsal{From: rehearsalDay, Until: rehearsalDay.AddDate(2, 0, 0), Signing: end, Roots: []Root{{rehearsalDay, rehearsalDay.AddDate(9, 0, 0), false}}}.Run()
	if len(r.Lapses) != 1 || !strings.Contains(r.Lapses[0].Why, "had ended") || r.Lapses[0].From.Sub(end).Abs() > time.Minute {
		t.Errorf("%+v", r.Lapses)
	}
}
