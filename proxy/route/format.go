package route

import (
	"fmt"
	"strconv"
	"strings"
)

// Format is a header value: text with %OPERATORS% (Envoy's substitution format).
// The exchange that evaluates it appends each part in turn.
type Format struct {
	Text  string // as written
	Parts []Part // empty: Text is literal
}

// Part is literal text or one operator.
type Part struct {
	Literal string
	Op      Op
	Arg     string // header name of REQ, RESP; "" otherwise
	Alt     string // the second name of REQ(a?b)
	Max     int    // at most so many bytes; 0 no limit
}

// Op is an operator that header values may use.
type Op uint8

// Operators. A Part with OpLiteral is text.
const (
	OpLiteral Op = iota
	OpReq
	OpResp
	OpDownstreamRemoteAddress
	OpDownstreamRemoteAddressWithoutPort
	OpDownstreamLocalAddress
	OpDownstreamLocalPort
	OpDownstreamPeerURISAN
	OpUpstreamHost
	OpUpstreamCluster
	OpProtocol
	OpResponseCode
	OpResponseFlags
	OpRouteName
	OpRequestedServerName
	OpStartTime
	OpHostname
)

var ops = map[string]Op{
	"REQ": OpReq, "RESP": OpResp,
	"DOWNSTREAM_REMOTE_ADDRESS":              OpDownstreamRemoteAddress,
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": OpDownstreamRemoteAddressWithoutPort,
	"DOWNSTREAM_LOCAL_ADDRESS":               OpDownstreamLocalAddress,
	"DOWNSTREAM_LOCAL_PORT":                  OpDownstreamLocalPort,
	"DOWNSTREAM_PEER_URI_SAN":                OpDownstreamPeerURISAN,
	"UPSTREAM_HOST":                          OpUpstreamHost,
	"UPSTREAM_CLUSTER":                       OpUpstreamCluster,
	"PROTOCOL":                               OpProtocol,
	"RESPONSE_CODE":                          OpResponseCode,
	"RESPONSE_FLAGS":                         OpResponseFlags,
	"ROUTE_NAME":                             OpRouteName,
	"REQUESTED_SERVER_NAME":                  OpRequestedServerName,
	"START_TIME":                             OpStartTime,
	"HOSTNAME":                               OpHostname,
}

// ParseFormat reads a header value. "%%" is a percent sign. An unknown operator or an
// unfinished one is an error: Envoy refuses it too.
func ParseFormat(s string) (Format, error) {
	f := Format{Text: s}
	if !strings.Contains(s, "%") {
		return f, nil
	}
	lit := ""
	flush := func() {
		if lit != "" {
			f.Parts = append(f.Parts, Part{Literal: lit})
			lit = ""
		}
	}
	for rest := s; rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			lit += rest
			break
		}
		lit += rest[:i]
		rest = rest[i+1:]
		if strings.HasPrefix(rest, "%") {
			lit += "%"
			rest = rest[1:]
			continue
		}
		end := closing(rest)
		if end < 0 {
			return Format{}, fmt.Errorf("value %q: a %% begins an operator that does not end; write %%%% for a percent sign", s)
		}
		p, err := parseOp(rest[:end])
		if err != nil {
			return Format{}, fmt.Errorf("value %q: %w", s, err)
		}
		flush()
		f.Parts = append(f.Parts, p)
		rest = rest[end+1:]
	}
	flush()
	return f, nil
}

// closing finds the % that ends an operator: one outside of parentheses.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		case '%':
			if depth <= 0 {
				return i
			}
		}
	}
	return -1
}

func parseOp(s string) (Part, error) {
	name, tail := s, ""
	if op, arg, ok := strings.Cut(s, "("); ok {
		name, tail = op, arg
	} else if i := strings.LastIndexByte(s, ':'); i >= 0 {
		name, tail = s[:i], s[i:]
	}
	op, ok := ops[name]
	if !ok {
		return Part{}, fmt.Errorf("operator %%%s%% is not supported in header values", name)
	}
	p := Part{Op: op}
	if i := strings.LastIndexByte(tail, ')'); i >= 0 {
		p.Arg, tail = strings.ToLower(tail[:i]), tail[i+1:]
		if j := strings.IndexByte(p.Arg, '?'); j >= 0 {
			p.Arg, p.Alt = p.Arg[:j], p.Arg[j+1:]
		}
	} else if strings.Contains(s, "(") {
		return Part{}, fmt.Errorf("operator %%%s%% lacks its closing parenthesis", s)
	}
	if (op == OpReq || op == OpResp) && p.Arg == "" {
		return Part{}, fmt.Errorf("operator %%%s%% needs a header name", name)
	}
	if strings.HasPrefix(tail, ":") {
		n, err := strconv.Atoi(tail[1:])
		if err != nil || n < 1 {
			return Part{}, fmt.Errorf("operator %%%s%%: %q is not a length", s, tail[1:])
		}
		p.Max = n
	} else if tail != "" {
		return Part{}, fmt.Errorf("operator %%%s%%: unexpected %q", s, tail)
	}
	return p, nil
}

func splitList(s string) []string {
	var out []string
	for w := range strings.SplitSeq(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}

func statusCode(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 100 && n <= 599
}
