package substitution

import (
	"fmt"
	"strconv"
	"time"
)

// Layout is a format of time as %START_TIME(...)% takes it: that of strftime, with fractions of seconds as %3f, %6f, %9f
// and %E3S. It is immutable.
type Layout struct{ steps []step }

// step appends one piece: literal text, what Go's layout says, Unix seconds, or digits of the fraction.
type step struct {
	literal, layout string
	digits          int // of the fraction; Unix seconds where it is negative
}

// defaultTime is Envoy's.
var defaultTime = Layout{[]step{{layout: "2006-01-02T15:04:05.000Z"}}}

// layouts are strftime's conversions in Go's words; all are in UTC.
var layouts = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'b': "Jan", 'h': "Jan", 'B': "January", 'a': "Mon", 'A': "Monday", 'j': "002",
	'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'z': "-0700", 'T': "15:04:05", 'X': "15:04:05", 'R': "15:04", 'r': "03:04:05 PM",
	'F': "2006-01-02", 'D': "01/02/06", 'x': "01/02/06", 'c': "Mon Jan _2 15:04:05 2006",
}

var literals = map[byte]string{'%': "%", 'n': "\n", 't': "\t", 'Z': "UTC"}

// ParseTime reads a format of time; "" is Envoy's default.
func ParseTime(s string) (Layout, error) {
	if s == "" {
		return defaultTime, nil
	}
	var l Layout
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			l.text(s[i : i+1])
			continue
		}
		st, n := conversion(s[i+1:])
		if n == 0 {
			return Layout{}, fmt.Errorf("time format %q: conversion %.3q is not supported", short(s), s[i:])
		}
		if st.literal != "" {
			l.text(st.literal)
		} else {
			l.steps = append(l.steps, st)
		}
		i += n
	}
	return l, nil
}

func (l *Layout) text(s string) {
	if n := len(l.steps); n > 0 && l.steps[n-1].literal != "" {
		l.steps[n-1].literal += s
		return
	}
	l.steps = append(l.steps, step{literal: s})
}

// conversion reads what follows a percent sign; n 0: it is none.
func conversion(s string) (st step, n int) {
	if s == "" {
		return st, 0
	}
	switch c := s[0]; {
	case c == 's':
		return step{digits: -1}, 1
	case c == 'f':
		return step{digits: 9}, 1
	case c >= '1' && c <= '9' && len(s) > 1 && s[1] == 'f':
		return step{digits: int(c - '0')}, 2
	case c == 'E':
		return extended(s)
	case literals[c] != "":
		return step{literal: literals[c]}, 1
	case layouts[c] != "":
		return step{layout: layouts[c]}, 1
	}
	return st, 0
}

// extended reads the conversions that begin with E.
func extended(s string) (step, int) {
	switch {
	case len(s) >= 2 && s[1] == 'z':
		return step{layout: "-07:00"}, 2
	case len(s) >= 2 && s[1] == 'T':
		return step{literal: "T"}, 2
	case len(s) >= 3 && s[1:3] == "4Y":
		return step{layout: "2006"}, 3
	case len(s) >= 3 && s[1:3] == "*S":
		return step{layout: "05.999999999"}, 3
	case len(s) >= 3 && s[1] >= '1' && s[1] <= '9' && s[2] == 'S':
		return step{layout: "05." + "000000000"[:s[1]-'0']}, 3
	case len(s) >= 3 && s[1] >= '1' && s[1] <= '9' && s[2] == 'f':
		return step{digits: int(s[1] - '0')}, 3
	}
	return step{}, 0
}

func checkTime(s string) error {
	_, err := ParseTime(s)
	return err
}

// Append appends t as the layout says, in UTC.
func (l *Layout) Append(b []byte, t time.Time) []byte {
	t = t.UTC()
	for i := range l.steps {
		switch st := &l.steps[i]; {
		case st.literal != "":
			b = append(b, st.literal...)
		case st.layout != "":
			b = t.AppendFormat(b, st.layout)
		case st.digits < 0:
			b = strconv.AppendInt(b, t.Unix(), 10)
		default:
			n := t.Nanosecond()
			for range 9 - st.digits {
				n /= 10
			}
			start := len(b)
			b = append(b, "000000000"[:st.digits]...)
			for j := len(b) - 1; j >= start; j-- {
				b[j] = byte('0' + n%10)
				n /= 10
			}
		}
	}
	return b
}
