package loop

import (
	"math"
	"math/bits"
)

// Timer calls Fire once its time has come. It is embedded in its owner: arming
// and stopping allocate nothing and cost the same however many are armed, so
// that a timeout per request and ten thousand idle timeouts are cheap.
// The zero Timer with Fire set is ready to be armed.
type Timer struct {
	Fire func()

	w          *wheel
	next, prev *Timer
	tick       int64
	list       uint16 // index of its list in the wheel
}

// Arm sets t to fire at the given time (see Now), never earlier and at most a
// millisecond later than the loop can; a time already past fires within a
// millisecond, never during the call. An armed timer is moved.
func (l *Loop) Arm(t *Timer, at int64) {
	t.Stop()
	// Round up: firing early would be a timeout the peer did not earn.
	tick := int64(math.MaxInt64)
	if at < math.MaxInt64-tickNanos {
		tick = (at + tickNanos - 1) / tickNanos
	}
	l.timers.add(t, tick)
}

// Stop disarms t. Stopping a timer that is not armed does nothing.
func (t *Timer) Stop() {
	if t.w != nil {
		t.w.remove(t)
	}
}

// Armed reports whether t is going to fire.
func (t *Timer) Armed() bool { return t.w != nil }

const (
	tickNanos  = 1_000_000
	levels     = 7 // 64^7 ms are 139 years
	maxTick    = 1<<(6*levels) - 1
	dueList    = levels * 64
	timerLists = dueList + 1
)

// wheel is a hierarchical timing wheel: level n has 64 lists of 64^n
// milliseconds each. A timer waits in the level of the highest bit in which its
// tick differs from the present one, and moves down when the present reaches its
// list. So all lists of a level lie ahead within the same revolution, the lowest
// occupied level holds the earliest, and next needs no search: a bitmap per level.
type wheel struct {
	cur      int64 // the last tick whose timers were taken
	occupied [levels]uint64
	lists    [timerLists]*Timer // circular, doubly linked
}

func (w *wheel) init(now int64) { w.cur = now / tickNanos }

func (w *wheel) add(t *Timer, tick int64) {
	tick = min(max(tick, w.cur+1), maxTick)
	t.tick = tick
	w.place(t)
}

// place links t into the list its tick belongs to now.
func (w *wheel) place(t *Timer) {
	if t.tick <= w.cur {
		w.link(t, dueList)
		return
	}
	level := (bits.Len64(uint64(t.tick^w.cur)) - 1) / 6
	slot := t.tick >> (6 * level) & 63
	w.occupied[level] |= 1 << slot
	w.link(t, uint16(level*64)+uint16(slot))
}

func (w *wheel) link(t *Timer, list uint16) {
	t.w, t.list = w, list
	if h := w.lists[list]; h != nil {
		t.next, t.prev = h, h.prev
		h.prev.next, h.prev = t, t
	} else {
		t.next, t.prev = t, t
		w.lists[list] = t
	}
}

func (w *wheel) remove(t *Timer) {
	if t.next == t {
		w.lists[t.list] = nil
		if t.list < dueList {
			w.occupied[t.list/64] &^= 1 << (t.list % 64)
		}
	} else {
		t.prev.next, t.next.prev = t.next, t.prev
		if w.lists[t.list] == t {
			w.lists[t.list] = t.next
		}
	}
	t.w, t.next, t.prev = nil, nil, nil
}

// earliest is the list that comes first and the tick at which it begins.
func (w *wheel) earliest() (list uint16, tick int64, ok bool) {
	for level, occ := range w.occupied {
		if occ != 0 {
			slot := int64(bits.TrailingZeros64(occ))
			above := w.cur >> (6 * (level + 1)) << (6 * (level + 1))
			return uint16(level*64) + uint16(slot), above | slot<<(6*level), true
		}
	}
	return 0, 0, false
}

// next is when the wheel wants to be looked at again. That is a timer's time, or
// the moment a far timer moves down a level: at most six such wake-ups in the
// life of a timer.
func (w *wheel) next() (at int64, ok bool) {
	if w.lists[dueList] != nil {
		return 0, true
	}
	_, tick, ok := w.earliest()
	return tick * tickNanos, ok
}

// pop disarms and returns one timer that is due at now, or nil.
func (w *wheel) pop(now int64) *Timer {
	for {
		if t := w.lists[dueList]; t != nil {
			w.remove(t)
			return t
		}
		upto := now / tickNanos
		list, tick, ok := w.earliest()
		if !ok || tick > upto {
			w.cur = max(w.cur, upto)
			return nil
		}
		w.cur = tick
		for t := w.lists[list]; t != nil; t = w.lists[list] {
			w.remove(t)
			w.place(t)
		}
	}
}

// NextTimer is when Step has timers to see to, for owners that drive the loop themselves.
func (l *Loop) NextTimer() (at int64, ok bool) { return l.timers.next() }
