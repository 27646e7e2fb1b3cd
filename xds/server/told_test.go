package server

import (
	"testing"
	"time"
)

// Strangers who open streams in a loop write so many lines a second, and no more; the next second they may again.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	s := &Server{}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for second, want := range []int{maxTold, maxTold} {
		told := 0
		for i := range 1000 {
			if s.tell(now.Add(time.Duration(second)*time.Second + time.Duration(i)*time.Millisecond)) {
				told++
			}
		}
		if told != want {
			t.Errorf("second %d: %d lines, want %d", second, told, want)
		}
	}
}
