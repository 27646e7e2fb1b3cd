package listener

// maxKept bounds what one worker keeps for clients that do not finish their first words:
// 2,000 usual ClientHellos without their last byte. Beyond, the one who began first has
// had the longest time. With InspectTimeout 0 this is the only limit.
const maxKept = 4 << 20

// keeping is the connections of which bytes are kept, in the order they began.
type keeping struct {
	first, last *kept
	n           int // bytes
}

// kept is one of them, embedded in its owner.
type kept struct {
	n          int
	crowd      func() // ends it
	next, prev *kept
}

// keep notes that n bytes of k are kept now; where that is too much in all, somebody's
// crowd is called.
func (l *keeping) keep(k *kept, n int, crowd func()) {
	if k.n == 0 {
		k.crowd = crowd
		if k.prev = l.last; k.prev != nil {
			k.prev.next = k
		} else {
			l.first = k
		}
		l.last = k
	}
	l.n += n - k.n
	k.n = n
	if l.n > maxKept {
		l.first.crowd()
	}
}

func (l *keeping) release(k *kept) {
	if k.n == 0 {
		return
	}
	l.n -= k.n
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		l.first = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		l.last = k.prev
	}
	*k = kept{}
}
