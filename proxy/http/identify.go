package http

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/tls"
)

// Canonical refuses what is not served here, whatever the route, and gives the path the one form that everything after it sees.
func Canonical() Stage {
	return Stage{Name: "canonical", Request: canonical}
}

func canonical(x *Exchange) Verdict {
	q, c := &x.Request, x.Config
	if full := x.w.o.Full; full != nil && full() {
		return x.Reply(causes.MemoryExhausted)
	}
	if bytes.HasPrefix(q.Upgrade, tlsUpgrade) && !c.allows(q.Upgrade) && q.Protocol != message.HTTP2 {
		// Apache HttpClient (as of 2026-11) asks for TLS on every plaintext connection, and does not mind to be ignored.
		q.Upgrade = nil
	}
	if c.Underscores != UnderscoresPass && !c.underscores(&q.Headers) {
		return x.Reply(causes.Underscore)
	}
	if v := q.Headers.Get(message.MaxForwards); v != nil && (q.Method == message.OPTIONS || q.Method == message.TRACE) {
		// RFC 9110 section 7.6.2. What is not a number forbids nothing.
		switch n, ok := parseUint(v, 1<<31); {
		case ok && n == 0 && q.Method == message.TRACE: // echoing a request shows what proxies added to it
			return x.ReplyWith(causes.NoFurther, 405, nil)
		case ok && n == 0:
			return x.ReplyWith(causes.NoFurther, 200, nil)
		case ok:
			q.Headers.Set(message.MaxForwards, x.arena.Close(strconv.AppendUint(x.arena.Open(10), n-1, 10)))
		}
	}
	if c.NoHostDot {
		x.stripDot()
	}
	escaped := c.Path.Slashes != message.KeepSlashes && message.HasEscapedSlash(q.Path)
	if escaped && c.Path.Slashes == message.RefuseSlashes {
		x.Details = causes.PathNormalizationFailed.Details()
		return x.ReplyWith(causes.EscapedSlash, 400, nil)
	}
	path, ok := message.CanonicalPath(q.Path, c.Path, &x.arena)
	if !ok {
		return x.Reply(causes.PathNormalizationFailed)
	}
	if q.Path = path; escaped && c.Path.Slashes == message.RedirectSlashes {
		for len(path) > 1 && path[1] == '/' { // two slashes at the beginning name another host (RFC 3986 section 4.2)
			path = path[1:]
		}
		x.redirect = path
		return x.ReplyWith(causes.EscapedSlash, 307, nil)
	}
	return Continue
}

// stripDot takes away the dot that ends a name from the root on, in front of the port.
func (x *Exchange) stripDot() {
	a := x.Request.Authority
	end := len(a)
	if i := bytes.LastIndexByte(a, ':'); i >= 0 {
		end = i
	}
	if end > 1 && a[end-1] == '.' {
		x.Request.Authority = x.arena.Close(append(append(x.arena.Open(len(a)), a[:end-1]...), a[end:]...))
	}
}

// underscores applies headers_with_underscores_action, and reports whether the request may go on.
func (c *Config) underscores(h *message.Headers) bool {
	if c.Underscores == UnderscoresDrop {
		h.RemoveFunc(hasUnderscore)
		return true
	}
	fields := h.Fields()
	for i := range fields {
		if hasUnderscore(&fields[i]) {
			return false
		}
	}
	return true
}

func hasUnderscore(f *message.Field) bool { return bytes.IndexByte(f.Name, '_') >= 0 }

func (c *Config) allows(upgrade []byte) bool {
	for _, u := range c.Upgrades {
		if foldsTo(upgrade, u) {
			return true
		}
	}
	return false
}

func foldsTo(kind []byte, lower string) bool {
	return len(lower) == len(kind) && bytes.EqualFold(kind, []byte(lower))
}

var tlsUpgrade = []byte("TLS/")

// Identify settles what the request says about its client and itself: address, scheme, certificate, request ID.
func Identify() Stage {
	return Stage{Name: "identify", Request: identify}
}

var (
	schemeHTTP  = []byte("http")
	schemeHTTPS = []byte("https")
)

// strangers are the headers that steer this proxy, or others of the mesh, and that a client outside the mesh must not set.
var strangers = [...]message.ID{
	message.XEnvoyDecoratorOperation, message.XEnvoyRetriableStatusCodes, message.XEnvoyRetriableHeaderNames,
	message.XEnvoyRetryOn, message.XEnvoyRetryGRPCOn, message.XEnvoyMaxRetries, message.XEnvoyUpstreamAltStatName,
	message.XEnvoyUpstreamRQTimeoutMS, message.XEnvoyUpstreamRQPerTryTimeoutMS, message.XEnvoyUpstreamRQTimeoutAltResponse,
	message.XEnvoyExpectedRQTimeoutMS, message.XEnvoyInternal, message.XEnvoyOriginalPath, message.XEnvoyOriginalHost,
	message.XEnvoyAttemptCount, message.XEnvoyIsTimeoutRetry, message.XEnvoyExternalAddress,
	message.XEnvoyDownstreamServiceCluster, message.XEnvoyDownstreamServiceNode, message.XEnvoyForceTrace,
	message.XEnvoyHedgeOnPerTryTimeout, message.XEnvoyIPTags, message.XEnvoyOriginalURL,
}

func identify(x *Exchange) Verdict {
	h, c := &x.Request.Headers, x.Config
	x.Remote = x.Conn.Remote
	scheme := schemeHTTP
	if x.Conn.TLS != nil {
		scheme = schemeHTTPS
		x.Request.Certified = x.Conn.TLS.Presented
	}
	h.Remove(message.XEnvoyDecoratorOperation)
	if c.Edge || c.Strangers {
		for _, id := range strangers {
			h.Remove(id)
		}
	}
	if c.Edge {
		h.Remove(message.XEnvoyPeerMetadata)
		h.Remove(message.XEnvoyPeerMetadataID)
		x.edgeAddress(h)
		if c.TrustedHops == 0 {
			h.Set(message.XForwardedProto, scheme)
		}
	} else if v, ok := h.Joined("x-forwarded-for", nil); ok && !c.Strangers {
		if a, ok := addressFromRight(v, c.TrustedHops); ok {
			x.Remote = a
		}
	}
	if v, ok := h.Joined("x-forwarded-proto", nil); !ok {
		h.Add(message.XForwardedProto, scheme)
	} else if string(v) == "http" || string(v) == "https" {
		scheme = v
	}
	x.Request.Scheme = scheme
	if c.Via != nil {
		x.via(h)
	}
	x.clientCert(h)
	if !c.NoRequestID && (h.Get(message.XRequestID) == nil || c.Edge && !c.KeepRequestID) {
		h.Set(message.XRequestID, x.newRequestID())
	}
	return Continue
}

// via appends this proxy to the list of those that passed the message on (RFC 9110 section 7.6.3).
func (x *Exchange) via(h *message.Headers) {
	v := x.Config.Via
	if old, ok := h.Joined("via", nil); ok && len(old) > 0 {
		b := append(x.arena.Open(len(old)+2+len(v)), old...)
		v = x.arena.Close(append(append(b, ", "...), v...))
	}
	h.Set(message.Via, v)
}

// edgeAddress appends the client's address to x-forwarded-for, and finds the trusted one.
func (x *Exchange) edgeAddress(h *message.Headers) {
	c := x.Config
	list, _ := h.Joined("x-forwarded-for", nil) // a proxy in front may have added a line of its own to one that its client made up
	if c.TrustedHops > 0 && len(list) > 0 {
		if a, ok := addressFromRight(list, c.TrustedHops-1); ok {
			x.Remote = a
		}
	}
	if !x.Conn.Remote.IsValid() {
		return
	}
	if !c.SkipXFF {
		b := x.arena.Open(len(list) + 48)
		if len(list) > 0 {
			b = append(append(b, list...), ',')
		}
		b = x.Conn.Remote.Addr().Unmap().AppendTo(b)
		h.Set(message.XForwardedFor, x.arena.Close(b))
	}
	b := x.Remote.Addr().Unmap().AppendTo(x.arena.Open(48))
	h.Set(message.XEnvoyExternalAddress, x.arena.Close(b))
}

// addressFromRight parses the element of x-forwarded-for that has so many others to its right.
func addressFromRight(list []byte, skip int) (netip.AddrPort, bool) {
	for ; ; skip-- {
		i := bytes.LastIndexByte(list, ',')
		if skip == 0 {
			s := bytes.TrimSpace(list[i+1:])
			if len(s) > 64 { // longer than any address with a zone
				return netip.AddrPort{}, false
			}
			a, err := netip.ParseAddrPort(string(s))
			if err != nil {
				var ip netip.Addr
				ip, err = netip.ParseAddr(string(s))
				a = netip.AddrPortFrom(ip, 0)
			}
			// One form for one host: what is allowed to an address is written of that.
			return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()), err == nil
		}
		if i < 0 {
			return netip.AddrPort{}, false
		}
		list = list[:i]
	}
}

// clientCert applies forward_client_cert_details.
func (x *Exchange) clientCert(h *message.Headers) {
	mode := x.Config.ClientCert
	if mode == CertAlwaysForwardOnly {
		return
	}
	peer := x.Conn.TLS
	if mode == CertSanitize || peer == nil || !peer.Presented {
		h.Remove(message.XForwardedClientCert)
		return
	}
	if mode == CertForwardOnly {
		return
	}
	if o := x.origin; o.xfcc == nil || o.parts != x.Config.CertParts { // a connection outlives its configuration
		o.xfcc, o.parts = certElement(peer, x.Config.CertParts), x.Config.CertParts
	}
	own := x.origin.xfcc
	if old, ok := h.Joined("x-forwarded-client-cert", nil); ok && mode == CertAppendForward && !x.Config.Strangers && len(old) > 0 {
		b := append(x.arena.Open(len(old)+1+len(own)), old...)
		h.Set(message.XForwardedClientCert, x.arena.Close(append(append(b, ','), own...)))
		return
	}
	h.Set(message.XForwardedClientCert, own)
}

// certElement makes the element of x-forwarded-client-cert that describes a client.
func certElement(peer *tls.Peer, parts ClientCertPart) (b []byte) {
	add := func(key, value string) {
		if len(b) > 0 {
			b = append(b, ';')
		}
		// Whoever signed the certificate may have signed any text for a name; in a header it must stay one value.
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`,;="`, r) }) {
			value = strconv.Quote(value)
		}
		b = append(append(append(b, key...), '='), value...)
	}
	if peer.Local != "" {
		add("By", peer.Local)
	}
	add("Hash", hex.EncodeToString(peer.Hash[:]))
	if parts&CertSubject != 0 {
		b = strconv.AppendQuote(append(b, ";Subject="...), peer.Subject)
	}
	if parts&CertURI != 0 {
		add("URI", peer.URI)
	}
	if parts&CertDNS != 0 {
		for _, d := range peer.DNS {
			add("DNS", d)
		}
	}
	return b
}

const lowerHex = "0123456789abcdef"

// newRequestID makes a UUID version 4 (RFC 9562). It identifies, it is not a secret.
func (x *Exchange) newRequestID() []byte {
	hi, lo := x.w.loop.Rand(), x.w.loop.Rand()
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 2<<62
	b := x.arena.Open(36)
	for i := range 16 {
		if i == 8 || i == 12 {
			b = append(b, '-')
		}
		b = append(b, lowerHex[hi>>60])
		hi <<= 4
	}
	b = append(b, '-')
	for i := range 16 {
		if i == 4 {
			b = append(b, '-')
		}
		b = append(b, lowerHex[lo>>60])
		lo <<= 4
	}
	return x.arena.Close(b)
}

// sign gives every response its server, date and request ID, and says why a proxy made it.
func sign(x *Exchange) {
	h, c := &x.Response.Headers, x.Config
	h.Remove(message.XEnvoyDecoratorOperation)
	if x.Cause == causes.EscapedSlash && x.redirect != nil {
		h.Set(message.Location, x.redirect)
	}
	if c.Via != nil {
		x.via(h)
	}
	switch {
	case c.ServerMode == ServerOverwrite, c.ServerMode == ServerIfAbsent && !h.Has(message.Server):
		h.Set(message.Server, c.ServerName)
	}
	if !h.Has(message.Date) {
		h.Add(message.Date, x.arena.Copy(x.w.httpDate()))
	}
	if c.AnswerRequestID {
		if id := x.Request.Headers.Get(message.XRequestID); id != nil {
			h.Set(message.XRequestID, id)
		}
	}
	x.tell()
}
