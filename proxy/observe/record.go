package observe

import (
	"bytes"
	"cmp"
	stdtls "crypto/tls"
	"encoding/hex"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/tls"
)

// Record is a request or connection as access logs and header values show it: a finished one, or so far. Whoever serves
// it fills it in; nothing of it is kept.
type Record struct {
	Start    time.Time
	Duration time.Duration

	// Request, Response and Trailers, those of the response, are nil for TCP, and so is what belongs to them.
	Request                     *message.Request
	Response                    *message.Response
	Trailers                    *message.Headers
	RequestEnded, ResponseBegan time.Duration // since Start; negative: did not happen
	GRPCStatus                  int8          // -1: none
	Attempts                    int
	Forwarded                   bool // to an upstream, by UpstreamHTTP
	UpstreamHTTP                message.Protocol

	Flags           causes.Flags
	Details         string  // RESPONSE_CODE_DETAILS
	Audit           *string // the policy that wants it logged; nil: none
	Termination     string  // CONNECTION_TERMINATION_DETAILS
	UpstreamFailure string  // UPSTREAM_TRANSPORT_FAILURE_REASON

	DownstreamFailure string // DOWNSTREAM_TRANSPORT_FAILURE_REASON
	Received, Sent    int64

	UpstreamHost     netip.AddrPort
	UpstreamPath     string // of a Unix socket, instead
	UpstreamName     string // of the host, where it has one
	UpstreamCluster  string
	UpstreamLocal    netip.AddrPort
	UpstreamTLS      *tls.Peer // nil: plaintext
	DownstreamLocal  netip.AddrPort
	DownstreamRemote netip.AddrPort
	DownstreamDirect netip.AddrPort // who connected; invalid: DownstreamRemote did
	DownstreamTLS    *tls.Peer      // nil: plaintext

	Cause                      causes.Cause
	RouteOrigin, ClusterOrigin Origin
	Deciders                   []Origin // besides; what their names and Details say of it: see Deciders

	ServerName, RouteName, Hostname string
}

// append appends the value of an operator as it is; false: there is none, and nothing was appended.
func (r *Record) append(b []byte, p *part) ([]byte, bool) {
	switch p.Op {
	case substitution.StartTime:
		return p.layout.Append(b, r.Start), true
	case substitution.Duration:
		return appendMillis(b, r.Duration)
	case substitution.BytesReceived:
		return strconv.AppendInt(b, r.Received, 10), true
	case substitution.BytesSent:
		return strconv.AppendInt(b, r.Sent, 10), true
	case substitution.ResponseCode:
		if r.Response == nil {
			return append(b, '0'), true
		}
		return strconv.AppendInt(b, int64(r.Response.Status), 10), true
	case substitution.ResponseCodeDetails:
		return text(b, r.Details)
	case substitution.ResponseFlags:
		return r.Flags.Append(b), true
	case substitution.ResponseFlagsLong:
		return r.Flags.AppendLong(b), true
	case substitution.ConnectionTerminationDetails:
		return text(b, r.Termination)
	case substitution.AuditHint:
		if r.Audit == nil {
			return b, false
		}
		return append(b, "true"...), true
	case substitution.AuditPolicy:
		if r.Audit == nil {
			return b, false
		}
		return text(b, *r.Audit)
	case substitution.Cause:
		if r.Cause == causes.NoCause {
			return b, false
		}
		return append(b, r.Cause.Name()...), true
	case substitution.RouteObject:
		return r.RouteOrigin.append(b)
	case substitution.ClusterObject:
		return r.ClusterOrigin.append(b)
	case substitution.DecidedObjects:
		return appendDecided(b, r.Deciders, cmp.Or(r.Details, r.Termination))
	case substitution.RouteName:
		return text(b, r.RouteName)
	case substitution.Hostname:
		return text(b, r.Hostname)
	case substitution.RequestedServerName:
		return text(b, r.ServerName)
	case substitution.AccessLogType:
		if r.Request == nil {
			return append(b, "TcpConnectionEnd"...), true
		}
		return append(b, "DownstreamEnd"...), true
	}
	if p.Op >= substitution.UpstreamHost {
		return r.upstream(b, p)
	}
	if p.Op >= substitution.DownstreamRemoteAddress {
		return r.downstream(b, p)
	}
	if r.Request == nil || r.Response == nil {
		return b, false
	}
	return r.exchange(b, p)
}

// exchange appends what only requests have.
func (r *Record) exchange(b []byte, p *part) ([]byte, bool) {
	switch p.Op {
	case substitution.Protocol:
		return append(b, r.Request.Protocol.String()...), true
	case substitution.RequestDuration:
		return appendMillis(b, r.RequestEnded)
	case substitution.ResponseDuration:
		return appendMillis(b, r.ResponseBegan)
	case substitution.ResponseTXDuration:
		if r.ResponseBegan < 0 {
			return b, false
		}
		return appendMillis(b, r.Duration-r.ResponseBegan)
	case substitution.Req, substitution.ReqWithoutQuery:
		v := requestHeader(r.Request, p.id, p.Arg)
		if v == nil && p.Alt != "" {
			v = requestHeader(r.Request, p.alt, p.Alt)
		}
		if p.Op == substitution.ReqWithoutQuery {
			v, _, _ = bytes.Cut(v, query)
		}
		return raw(b, v)
	case substitution.Resp:
		return raw(b, header(&r.Response.Headers, p))
	case substitution.Trailer:
		if r.Trailers == nil {
			return b, false
		}
		return raw(b, header(r.Trailers, p))
	case substitution.QueryParam:
		return r.queryParam(b, p.Arg)
	case substitution.GRPCStatus:
		if r.GRPCStatus < 0 {
			return b, false
		}
		return appendGRPC(b, r.GRPCStatus, p.Arg), true
	case substitution.GRPCStatusNumber:
		if r.GRPCStatus < 0 {
			return b, false
		}
		return strconv.AppendInt(b, int64(r.GRPCStatus), 10), true
	}
	return b, false
}

var query = []byte{'?'}

func requestHeader(q *message.Request, id message.ID, name string) []byte {
	if v, ok := q.Pseudo(name); ok {
		return v
	}
	return named(&q.Headers, id, name)
}

func header(h *message.Headers, p *part) []byte {
	v := named(h, p.id, p.Arg)
	if v == nil && p.Alt != "" {
		v = named(h, p.alt, p.Alt)
	}
	return v
}

func named(h *message.Headers, id message.ID, name string) []byte {
	if id != message.OtherHeader {
		return h.Get(id)
	}
	return h.GetName(name)
}

// queryParam appends the first value of a parameter of the query, decoded.
func (r *Record) queryParam(b []byte, name string) ([]byte, bool) {
	_, q := r.Request.PathQuery()
	for pair := range bytes.SplitSeq(q, []byte{'&'}) {
		k, v, _ := bytes.Cut(pair, []byte{'='})
		if string(k) != name {
			continue
		}
		if bytes.IndexByte(v, '%') >= 0 {
			if s, err := url.PathUnescape(string(v)); err == nil {
				return append(b, s...), true
			}
		}
		return append(b, v...), true
	}
	return b, false
}

// downstream appends what is known of the client's connection.
func (r *Record) downstream(b []byte, p *part) ([]byte, bool) {
	direct := r.DownstreamDirect
	if !direct.IsValid() {
		direct = r.DownstreamRemote
	}
	switch p.Op {
	case substitution.DownstreamRemoteAddress:
		return address(b, r.DownstreamRemote)
	case substitution.DownstreamRemoteAddressWithoutPort:
		return ip(b, r.DownstreamRemote)
	case substitution.DownstreamRemotePort:
		return port(b, r.DownstreamRemote)
	case substitution.DownstreamDirectRemoteAddress:
		return address(b, direct)
	case substitution.DownstreamDirectRemoteAddressWithoutPort:
		return ip(b, direct)
	case substitution.DownstreamDirectRemotePort:
		return port(b, direct)
	case substitution.DownstreamLocalAddress:
		return address(b, r.DownstreamLocal)
	case substitution.DownstreamLocalAddressWithoutPort:
		return ip(b, r.DownstreamLocal)
	case substitution.DownstreamLocalPort:
		return port(b, r.DownstreamLocal)
	case substitution.DownstreamTransportFailureReason:
		return word(b, r.DownstreamFailure)
	}
	t := r.DownstreamTLS
	if t == nil {
		return b, false
	}
	switch p.Op {
	case substitution.DownstreamPeerURISAN:
		return text(b, t.URI)
	case substitution.DownstreamPeerDNSSAN:
		return list(b, t.DNS)
	case substitution.DownstreamPeerSubject:
		return text(b, t.Subject)
	case substitution.DownstreamPeerFingerprint256:
		if !t.Presented {
			return b, false
		}
		return hex.AppendEncode(b, t.Hash[:]), true
	case substitution.DownstreamLocalURISAN:
		return text(b, t.Local)
	case substitution.DownstreamTLSVersion:
		return tlsVersion(b, t.Version), true
	case substitution.DownstreamTLSCipher:
		return tlsCipher(b, t.Suite), true
	}
	return b, false
}

// upstream appends what is known of where the request or connection went.
func (r *Record) upstream(b []byte, p *part) ([]byte, bool) {
	switch p.Op {
	case substitution.UpstreamHost, substitution.UpstreamRemoteAddress:
		if r.UpstreamPath != "" {
			return append(b, r.UpstreamPath...), true
		}
		return address(b, r.UpstreamHost)
	case substitution.UpstreamHostName:
		if r.UpstreamName != "" {
			return append(b, r.UpstreamName...), true
		}
		return address(b, r.UpstreamHost)
	case substitution.UpstreamRemoteAddressWithoutPort:
		return ip(b, r.UpstreamHost)
	case substitution.UpstreamRemotePort:
		return port(b, r.UpstreamHost)
	case substitution.UpstreamCluster:
		return text(b, r.UpstreamCluster)
	case substitution.UpstreamLocalAddress:
		return address(b, r.UpstreamLocal)
	case substitution.UpstreamLocalAddressWithoutPort:
		return ip(b, r.UpstreamLocal)
	case substitution.UpstreamLocalPort:
		return port(b, r.UpstreamLocal)
	case substitution.UpstreamTransportFailureReason:
		return word(b, r.UpstreamFailure)
	case substitution.UpstreamRequestAttemptCount:
		return strconv.AppendInt(b, int64(r.Attempts), 10), true
	case substitution.UpstreamProtocol:
		if !r.Forwarded {
			return b, false
		}
		return append(b, r.UpstreamHTTP.String()...), true
	}
	t := r.UpstreamTLS
	if t == nil {
		return b, false
	}
	switch p.Op {
	case substitution.UpstreamPeerURISAN:
		return text(b, t.URI)
	case substitution.UpstreamPeerDNSSAN:
		return list(b, t.DNS)
	case substitution.UpstreamPeerSubject:
		return text(b, t.Subject)
	case substitution.UpstreamLocalURISAN:
		return text(b, t.Local)
	case substitution.UpstreamTLSVersion:
		return tlsVersion(b, t.Version), true
	case substitution.UpstreamTLSCipher:
		return tlsCipher(b, t.Suite), true
	}
	return b, false
}

func text(b []byte, s string) ([]byte, bool) { return append(b, s...), s != "" }

// word appends s as one word, as Envoy has it.
func word(b []byte, s string) ([]byte, bool) {
	start := len(b)
	b = append(b, s...)
	for i := start; i < len(b); i++ {
		if b[i] == ' ' {
			b[i] = '_'
		}
	}
	return b, s != ""
}

// raw appends a header's value; an empty one is one.
func raw(b, v []byte) ([]byte, bool) { return append(b, v...), v != nil }

func list(b []byte, all []string) ([]byte, bool) {
	for i, s := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, s...)
	}
	return b, len(all) > 0
}

func appendMillis(b []byte, d time.Duration) ([]byte, bool) {
	if d < 0 {
		return b, false
	}
	return strconv.AppendInt(b, d.Milliseconds(), 10), true
}

func address(b []byte, a netip.AddrPort) ([]byte, bool) {
	if !a.IsValid() {
		return b, false
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(b), true
}

func ip(b []byte, a netip.AddrPort) ([]byte, bool) {
	if !a.IsValid() {
		return b, false
	}
	return a.Addr().Unmap().AppendTo(b), true
}

func port(b []byte, a netip.AddrPort) ([]byte, bool) {
	if !a.IsValid() {
		return b, false
	}
	return strconv.AppendUint(b, uint64(a.Port()), 10), true
}

func tlsVersion(b []byte, v uint16) []byte {
	switch v {
	case stdtls.VersionTLS13:
		return append(b, "TLSv1.3"...)
	case stdtls.VersionTLS12:
		return append(b, "TLSv1.2"...)
	}
	return append(b, stdtls.VersionName(v)...)
}

// tlsCipher appends the name that Envoy's TLS library has for a cipher suite: for TLS 1.2 not that of the IANA.
func tlsCipher(b []byte, suite uint16) []byte {
	if name := cipherNames[suite]; name != "" {
		return append(b, name...)
	}
	return append(b, stdtls.CipherSuiteName(suite)...)
}

var cipherNames = map[uint16]string{
	stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       "ECDHE-ECDSA-AES128-GCM-SHA256",
	stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "ECDHE-ECDSA-AES256-GCM-SHA384",
	stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         "ECDHE-RSA-AES128-GCM-SHA256",
	stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
	stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
	stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   "ECDHE-RSA-CHACHA20-POLY1305",
	stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:          "ECDHE-ECDSA-AES128-SHA",
	stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:          "ECDHE-ECDSA-AES256-SHA",
	stdtls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA",
	stdtls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:            "ECDHE-RSA-AES256-SHA",
}

// grpcNames are the statuses of gRPC (its statuscodes.md), in the two forms of %GRPC_STATUS%.
var grpcNames = [...]struct{ camel, snake string }{
	{"OK", "OK"}, {"Canceled", "CANCELLED"}, {"Unknown", "UNKNOWN"}, {"InvalidArgument", "INVALID_ARGUMENT"},
	{"DeadlineExceeded", "DEADLINE_EXCEEDED"}, {"NotFound", "NOT_FOUND"}, {"AlreadyExists", "ALREADY_EXISTS"},
	{"PermissionDenied", "PERMISSION_DENIED"}, {"ResourceExhausted", "RESOURCE_EXHAUSTED"}, {"FailedPrecondition", "FAILED_PRECONDITION"},
	{"Aborted", "ABORTED"}, {"OutOfRange", "OUT_OF_RANGE"}, {"Unimplemented", "UNIMPLEMENTED"}, {"Internal", "INTERNAL"},
	{"Unavailable", "UNAVAILABLE"}, {"DataLoss", "DATA_LOSS"}, {"Unauthenticated", "UNAUTHENTICATED"},
}

func appendGRPC(b []byte, status int8, form string) []byte {
	switch {
	case int(status) >= len(grpcNames) || form == "NUMBER":
		return strconv.AppendInt(b, int64(status), 10)
	case form == "SNAKE_STRING":
		return append(b, grpcNames[status].snake...)
	}
	return append(b, grpcNames[status].camel...)
}
