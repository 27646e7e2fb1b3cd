// Package share divides what there is of something among those who ask for it, so that nobody takes all.
//
// In: who takes or gives back how much. Out: whether there is room. Shares are for one goroutine at a time.
package share

// Shares of K. The zero value with limits is ready: Each is the most that one may have, All what there is.
type Shares[K comparable] struct {
	Each, All int
	taken     int
	of        map[K]int
}

// Take takes n for k, if there is so much.
func (s *Shares[K]) Take(k K, n int) bool {
	if s.taken+n > s.All || s.of[k]+n > s.Each {
		return false
	}
	if s.of == nil {
		s.of = map[K]int{}
	}
	s.taken += n
	s.of[k] += n
	return true
}

// Give takes n back from k.
func (s *Shares[K]) Give(k K, n int) {
	s.taken -= n
	if s.of[k] -= n; s.of[k] == 0 {
		delete(s.of, k)
	}
}
