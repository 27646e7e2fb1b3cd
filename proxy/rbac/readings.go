package rbac

// maxReadings bounds in how many ways a request is read: each costs a look at all policies.
const maxReadings = 256

// readings are the ways to read what comes several times: a header as one list, or by one of its lines alone, also one with an underscore for a hyphen in its name; and an authority
// that ends in a dot: with it, or without. Who gets the request may read the first line of one header and the last of
// another, so all of them are combined, as tests come upon them. The zero value has come upon none.
type readings struct {
	list     [6]reading // six of two lines each are more than maxReadings
	n, total int
	over     bool // there are more than maxReadings
}

type reading struct {
	name   string
	at, of int
}

// at is how the name is read this time: from 0 to below of.
func (r *readings) at(name string, of int) int {
	for i := range r.list[:r.n] {
		if r.list[i].name == name {
			return r.list[i].at
		}
	}
	if r.total = max(r.total, 1) * of; r.total > maxReadings || r.n == len(r.list) {
		r.over = true
		return 0
	}
	r.list[r.n] = reading{name, 0, of}
	r.n++
	return 0
}

// reread begins anew.
func (f *Facts) reread() { f.readings.n, f.readings.total, f.readings.over = 0, 0, false }

// next goes on to another way of reading, false if that was the last.
func (f *Facts) next() bool {
	r := &f.readings
	for i := range r.list[:r.n] {
		if r.list[i].at++; r.list[i].at < r.list[i].of {
			return true
		}
		r.list[i].at = 0
	}
	return false
}
