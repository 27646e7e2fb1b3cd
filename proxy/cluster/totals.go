package cluster

// Totals are what requests and connections to clusters there were, as one worker counts them: it alone touches them, on its loop. A
// cluster that nobody calls has a word of them at most.
type Totals struct {
	of []*Total // by ID
}

// Total is what there was of one cluster since the worker began.
type Total struct {
	Requests    uint64    // attempts at its endpoints
	Connections uint64    // that were begun
	Answers     [6]uint64 // what its requests came to in the end, by the class of the status: what the upstream or a proxy answered
}

// Of are the counters of a cluster, to be added to.
func (t *Totals) Of(id ID) *Total {
	if int(id) < len(t.of) {
		if c := t.of[id]; c != nil {
			return c
		}
	}
	return t.first(id)
}

// first makes the counters of a cluster.
func (t *Totals) first(id ID) *Total {
	for int(id) >= len(t.of) {
		t.of = append(t.of, nil)
	}
	t.of[id] = &Total{}
	return t.of[id]
}

// Answered counts what a request came to; a status of 0 is none.
func (t *Total) Answered(status int) {
	if class := uint(status) / 100; class < uint(len(t.Answers)) {
		t.Answers[class]++
	}
}

// Add adds what another worker has counted.
func (t *Totals) Add(from *Totals) {
	for id, c := range from.of {
		if c == nil {
			continue
		}
		to := t.Of(ID(id))
		to.Requests, to.Connections = to.Requests+c.Requests, to.Connections+c.Connections
		for i, n := range c.Answers {
			to.Answers[i] += n
		}
	}
}

// At are the counters of a cluster as they are.
func (t *Totals) At(id ID) Total {
	if int(id) < len(t.of) && t.of[id] != nil {
		return *t.of[id]
	}
	return Total{}
}
