package server

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Of what a client says about what it rejects, as much is kept as people read; what it names beyond that is found all the same.
func TestLongRejection(t *testing.T) {
	s := newSubscription("x")
	s.rejected(&flight{response: &response{}, names: []string{"good", "bad"}}, strings.Repeat("é", 1<<20)+` cluster "bad": no`, time.Now(), false)
	if n := len(s.lastNACK.Message); n < maxMessage-8 || n > maxMessage+8 {
		t.Errorf("%d bytes are kept", n)
	}
	if !slices.Equal(s.lastNACK.Names, []string{"bad"}) || len(s.retry) != 2 {
		t.Errorf("it rejects %q, tried again in parts %q", s.lastNACK.Names, s.retry)
	}
}
