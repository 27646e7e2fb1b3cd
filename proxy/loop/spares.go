package loop

// Spares keeps things of one loop for use again: as many as were in use at once of late. So steady work allocates nothing
// at whatever level it is, and what only a peak needed goes to the garbage collector within two looks.
type Spares[T any] struct {
	loop  *Loop
	free  []T
	few   int // kept in any case
	most  int
	least int // fewest that were free at once since the last look
}

// lookAtSpares is how often, in ns, a loop with more than a few spares looks for those it did not need.
const lookAtSpares = 5_000_000_000

// NewSpares makes an empty store for l that keeps few things for ever and never more than most.
func NewSpares[T any](l *Loop, few, most int) *Spares[T] {
	s := &Spares[T]{loop: l, few: few, most: most}
	l.spares = append(l.spares, s)
	return s
}

// Get returns something that was Put; false where there is nothing.
func (s *Spares[T]) Get() (v T, ok bool) {
	n := len(s.free) - 1
	if n < 0 {
		return v, false
	}
	var none T
	v, s.free[n] = s.free[n], none
	s.free = s.free[:n]
	s.least = min(s.least, n)
	return v, true
}

// Put keeps v for a later Get, unless there is more than enough.
func (s *Spares[T]) Put(v T) {
	if len(s.free) >= s.most {
		return
	}
	if s.free = append(s.free, v); len(s.free) > s.few {
		s.loop.lookLater()
	}
}

// trim drops what nobody needed since the last look, and reports whether another look is due.
func (s *Spares[T]) trim() (more bool) {
	left := len(s.free)
	if n := min(s.least, left-s.few); n > 0 {
		left -= n
		clear(s.free[left:])
		s.free = s.free[:left]
		if cap(s.free) > 4*max(left, s.few) {
			s.free = append(make([]T, 0, max(left, s.few)), s.free...)
		}
	}
	s.least = left
	return left > s.few
}

func (l *Loop) lookLater() {
	if l.look.w == nil {
		l.Arm(&l.look, l.now+lookAtSpares)
	}
}

func (l *Loop) lookAtSpares() {
	again := false
	for _, s := range l.spares {
		again = s.trim() || again
	}
	if again {
		l.lookLater()
	}
}
