package causes

import "bytes"

// Said is why a proxy answered, as it tells its callers (x-weir-why): a cause, or Denied. The zero value: no proxy said anything.
type Said uint8

const (
	saidDenied = Said(numCauses) + iota
	saidOther  // what no proxy of this version says
)

// Heard is what a value of x-weir-why says.
func Heard(why []byte) Said {
	code, _, _ := bytes.Cut(why, []byte{';'})
	if string(code) == string(Denied) {
		return saidDenied
	}
	for c := range All() {
		if string(code) == c.Name() {
			return Said(c)
		}
	}
	return saidOther
}

// String is the code, "" for none, "other" for what proxies of another version may say.
func (s Said) String() string {
	switch {
	case s == Said(NoCause):
		return ""
	case s == saidDenied:
		return string(Denied)
	case s >= saidOther:
		return "other"
	}
	return Cause(s).Name()
}
