package loop

// TurnNode is work put off to the end of a turn or to the next one. It is
// embedded in its owner, so putting work off allocates nothing; putting off what
// is put off already does nothing.
type TurnNode struct {
	Do func()

	next *TurnNode // itself: it is the last; nil: it is not put off
}

// AtTurnEnd calls n.Do at the end of this turn, in the order of asking. Nodes
// added meanwhile run in the same turn.
func (l *Loop) AtTurnEnd(n *TurnNode) { l.end.push(n) }

// AtFlush calls n.Do after everything asked for by AtTurnEnd: connections write
// there, so that all that was produced in a turn leaves in one system call.
func (l *Loop) AtFlush(n *TurnNode) { l.flushes.push(n) }

// NextTurn calls n.Do in the next turn, after the ready descriptors of that turn
// had theirs, and keeps the loop from waiting: for who stops in the middle of
// long work so that others are served.
func (l *Loop) NextTurn(n *TurnNode) { l.soon.push(n) }

// turnList is a FIFO. cut and popCut take the nodes that were there at the time of
// the cut only, so that a node that puts itself off again waits a turn.
type turnList struct {
	head, tail *TurnNode
	cutTail    *TurnNode
}

func (t *turnList) empty() bool { return t.head == nil }

func (t *turnList) push(n *TurnNode) {
	if n.next != nil {
		return
	}
	n.next = n
	if t.tail == nil {
		t.head = n
	} else {
		t.tail.next = n
	}
	t.tail = n
}

func (t *turnList) pop() *TurnNode {
	n := t.head
	if n == nil {
		return nil
	}
	if t.head = n.next; n == t.tail {
		t.head, t.tail = nil, nil
	}
	n.next = nil
	return n
}

// cut begins a pass, or goes on with the one that a panic interrupted.
func (t *turnList) cut() *TurnNode {
	if t.cutTail == nil {
		t.cutTail = t.tail
	}
	return t.popCut()
}

func (t *turnList) popCut() *TurnNode {
	if t.cutTail == nil {
		return nil
	}
	n := t.pop()
	if n == t.cutTail {
		t.cutTail = nil
	}
	return n
}
