package scripts

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	testmesh "github.com/weirmesh/weir/test/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/simulate"
)

// simulation runs calls over what the control plane generates.
type simulation struct {
	proxies map[string]*simulate.Proxy
	names   map[string]string // of pods, by address
	vault   *vault
}

// certs is where proxies of the simulation have their files.
const certs = "/certs"

// addressOf a member of the cast.
func addressOf(name string) string {
	i := slices.IndexFunc(cast(), func(x testmesh.Spec) bool { return x.Name == name })
	if i < 0 {
		return name
	}
	return address(i)
}

func parse(t testing.TB, name, text string) config.Unit {
	u := file.Parse(name, []byte(text), "default")
	for _, f := range u.Findings {
		if f.Severity == config.Error {
			t.Fatal(f)
		}
	}
	return u
}

func simulated(t testing.TB, v *vault, objects string) *simulation {
	objects = v.fill(objects, certs, addressOf)
	st, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system",
		DefaultRetries: mesh.SafeRetries()}})
	if err != nil {
		t.Fatal(err)
	}
	units := []config.Unit{parse(t, "cast.yaml", services+"\n"+pods())}
	if strings.TrimSpace(objects) != "" {
		units = append(units, file.Parse("script.yaml", []byte(objects), "default"))
	}
	snap := st.Step(units...).Snapshot
	s := &simulation{map[string]*simulate.Proxy{}, map[string]string{}, v}
	maps.Copy(s.names, outside)
	cache := translate.New()
	for i, c := range cast() {
		s.names[address(i)] = c.Name
		n := &translate.Node{Type: translate.Sidecar, Namespace: c.Namespace, Name: c.Name, ServiceAccount: c.ServiceAccount, Labels: c.Labels, Interception: translate.Redirect, DNS: true}
		if c.Gateway {
			n.Type, n.DNS = translate.Router, false
		}
		if c.NoProxy {
			continue
		}
		p := simulate.New()
		p.Bound = c.Gateway
		for name, data := range v.files {
			p.Files[path.Join(certs, name)] = data
		}
		for _, set := range cache.View(snap, n).Sets {
			for name, r := range set.All() {
				m, err := (&anypb.Any{TypeUrl: r.TypeURL(), Value: r.Body()}).UnmarshalNew()
				if err == nil { // types of our own say nothing about calls
					p.Add(name, m)
				}
			}
		}
		s.proxies[c.Name] = p
	}
	return s
}

// call is what may come of c.
func (s *simulation) call(c *call) ([]observed, error) {
	host, port, _ := strings.Cut(c.target, ":")
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", c.target, err)
	}
	who := c.from
	if who == "outside" {
		who = host
	}
	p := s.proxies[who]
	if p == nil {
		return nil, fmt.Errorf("there is nobody called %q", who)
	}
	var to netip.Addr
	switch a, bad := netip.ParseAddr(host); {
	case c.from == "outside":
		to = netip.IPv4Unspecified()
	case strings.HasPrefix(host, "@"):
		to = netip.MustParseAddr(addressOf(host[1:]))
	case bad == nil:
		to = a
	default:
		ns := cast()[slices.IndexFunc(cast(), func(x testmesh.Spec) bool { return x.Name == who })].Namespace
		var ok bool
		if to, ok = p.Resolve(host, ns); !ok {
			return nil, fmt.Errorf("%s has no name %q", who, host)
		}
	}
	sc := simulate.Call{To: netip.AddrPortFrom(to, uint16(number)), SNI: c.sni, Bytes: c.kind == "tcp" || c.kind == "tls", H2: c.kind == "grpc", Method: c.method, Host: c.host, Path: c.path}
	if strings.HasPrefix(c.host, "@") {
		sc.Host = sc.To.String()
	}
	if c.socket != "" {
		sc.Socket = path.Join(certs, c.socket)
	}
	if c.cert != "" {
		leaf, err := x509.ParseCertificate(s.vault.pairs[c.cert].Certificate[0])
		if err != nil {
			return nil, err
		}
		sc.Peer.Chain = []*x509.Certificate{leaf}
	}
	if c.version == "1.2" {
		sc.Peer.Version = tls.VersionTLS12
	}
	for _, h := range c.headers {
		sc.Headers = append(sc.Headers, simulate.Header{Name: h[0], Value: h[1]})
	}
	return s.follow(p, sc, c)
}

// follow is what may come of a call that reaches a proxy.
func (s *simulation) follow(p *simulate.Proxy, sc simulate.Call, c *call) ([]observed, error) {
	outcomes, err := p.Call(sc)
	var out []observed
	for i := range outcomes {
		some, err := s.observe(p, &outcomes[i], sc, c)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	return out, err
}

// beyond is what may come of a call that a proxy sends to the gateway at an endpoint; nil if
// that is none.
func (s *simulation) beyond(p *simulate.Proxy, x *simulate.Outcome, sc simulate.Call, c *call) ([]observed, error) {
	if len(x.Endpoints) != 1 || x.Flags != "" || x.Status != 0 {
		return nil, nil
	}
	at, err := netip.ParseAddrPort(x.Endpoints[0].Address)
	if err != nil {
		return nil, nil //nolint:nilerr // a name, which no gateway has
	}
	next := s.proxies[s.names[at.Addr().String()]]
	if next == nil || !next.Bound {
		return nil, nil
	}
	sc.To = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	if x.Request.Authority != "" { // HTTP
		sc.Host, sc.Path, sc.Headers, sc.SNI, sc.H2 = x.Request.Authority, x.Request.Path, x.Request.Headers, "", c.kind == "grpc"
	}
	if socket := x.Endpoints[0].TLS; strings.HasSuffix(socket.GetName(), "tls") {
		o, why, err := p.Originate(socket, simulate.Peer{Mesh: true})
		if err != nil || why != "" {
			return nil, fmt.Errorf("calling a gateway: %s %w", why, err)
		}
		sc.SNI, sc.Peer = o.SNI, simulate.Peer{Mesh: o.Mesh, Chain: o.Chain}
		if sc.SNI == "" {
			sc.SNI = "-"
		}
	}
	return s.follow(next, sc, c)
}

func (s *simulation) who(endpoints []simulate.Endpoint) []string {
	var out []string
	for _, e := range endpoints {
		host, _, _ := strings.Cut(e.Address, ":")
		name := s.names[host]
		if name == "" {
			name = e.Address
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// observe is an outcome with what an application makes of it, and with and without each copy.
func (s *simulation) observe(p *simulate.Proxy, x *simulate.Outcome, sc simulate.Call, c *call) ([]observed, error) {
	if x.Refused != "" || c.kind == "https" && x.Details == "filter_chain_not_found" {
		return []observed{{share: x.Share, refused: true}}, nil
	}
	o := observed{share: x.Share, status: x.Status, flags: x.Flags, words: map[string]string{"peer": "", "route": x.Route, "cluster": x.Cluster, "details": x.Details}, certain: true}
	if x.Delayed {
		o.flags = strings.TrimSuffix("DI,"+o.flags, ",")
	}
	if x.Status != 0 || c.kind != "" {
		o.words["body"], o.response = x.Body, values(x.Reply)
	}
	if x.Flags == "" && x.Status == 0 {
		o.pods = s.who(x.Endpoints)
	}
	inHTTP := c.kind != "tcp" && c.kind != "tls"
	if len(x.Shown.Chain) > 0 {
		o.words["shown"] = x.Shown.Chain[0].Subject.CommonName
	}
	var some []observed
	if inHTTP { // of bytes nobody tells how they went on
		var err error
		if some, err = s.beyond(p, x, sc, c); err != nil {
			return nil, err
		}
	}
	for i := range some { // of the first proxy the log tells, of the last the pod
		some[i].share *= x.Share
		for _, k := range []string{"route", "cluster"} {
			some[i].words[k] = o.words[k]
		}
		if delete(some[i].words, "details"); some[i].flags != "" {
			some[i].flags = ""
		}
	}
	if some != nil {
		return some, nil
	}
	if x.Flags == "" && x.Status == 0 {
		if broken, err := s.originate(p, x, &o); err != nil || broken {
			return []observed{o}, err
		}
	}
	if c.kind == "grpc" && x.Status != 0 {
		if o.words["grpc"] = o.response["grpc-status"]; o.words["grpc"] == "" {
			o.status, o.words["grpc"] = http.StatusOK, grpcStatus[x.Status]
		}
	}
	if x.Flags == "" && x.Status == 0 && inHTTP {
		o.words["details"] = "via_upstream"
		o.words["path"], o.words["host"] = x.Request.Path, x.Request.Authority
		o.request = values(x.Request.Headers)
		application(&o, x)
	}
	all := weighed(&o, s, x)
	for _, m := range x.Mirrors {
		var next []observed
		for _, o := range all {
			if without := o; m.Share < 1 {
				without.share *= 1 - m.Share
				next = append(next, without)
			}
			if m.Share > 0 {
				o.share *= m.Share
				o.mirrored = append(slices.Clone(o.mirrored), strings.Join(s.who(m.Endpoints), "|"))
				next = append(next, o)
			}
		}
		all = next
	}
	return all, nil
}

// weighed is o for each pod, if they get unequal shares.
func weighed(o *observed, s *simulation, x *simulate.Outcome) []observed {
	total, equal := 0.0, true
	for i := range x.Endpoints {
		total += x.Endpoints[i].Weight
		equal = equal && math.Abs(x.Endpoints[i].Weight-x.Endpoints[0].Weight) < 1e-9
	}
	if equal || len(o.pods) == 0 {
		return []observed{*o}
	}
	var out []observed
	for i := range x.Endpoints {
		one := *o
		one.pods, one.share = s.who(x.Endpoints[i:i+1]), o.share*x.Endpoints[i].Weight/total
		out = append(out, one)
	}
	return out
}

// grpcStatus is gRPC's for a status of HTTP (grpc/doc/http-grpc-status-mapping.md).
var grpcStatus = map[int]string{400: "13", 401: "16", 403: "7", 404: "12", 429: "14", 502: "14", 503: "14", 504: "14"}

// identity is that of the workload whose proxy p is.
func (s *simulation) identity(p *simulate.Proxy) string {
	for _, c := range cast() {
		if s.proxies[c.Name] == p {
			return "spiffe://cluster.local/ns/" + c.Namespace + "/sa/" + c.ServiceAccount
		}
	}
	return ""
}

// originate is the handshake with an endpoint outside the mesh. It reports whether that fails.
func (s *simulation) originate(p *simulate.Proxy, x *simulate.Outcome, o *observed) (broken bool, err error) {
	for _, e := range x.Endpoints {
		begins := strings.HasSuffix(e.TLS.GetName(), "tls")
		host, port, _ := strings.Cut(e.Address, ":")
		i := slices.IndexFunc(cast(), func(c testmesh.Spec) bool { return c.Name == s.names[host] })
		if i >= 0 && !begins {
			continue
		}
		why := ""
		switch plain := i >= 0 && cast()[i].NoProxy && port != strconv.Itoa(secure); {
		case i < 0:
			why = "nobody is there"
		case plain:
			why = "it does not speak TLS"
		case !cast()[i].NoProxy:
			var begun simulate.Origination
			if begun, why, err = p.Originate(e.TLS, simulate.Peer{Mesh: true}); begun.Mesh {
				o.words["peer"] = s.identity(p)
			}
		default:
			leaf, bad := x509.ParseCertificate(s.vault.pairs["web"].Certificate[0])
			if bad != nil {
				return false, bad
			}
			var begun simulate.Origination
			begun, why, err = p.Originate(e.TLS, simulate.Peer{Chain: []*x509.Certificate{leaf}})
			o.words["sni"], o.words["client"] = begun.SNI, ""
			if len(begun.Chain) > 0 {
				o.words["client"] = begun.Chain[0].Subject.CommonName
			}
		}
		if err != nil {
			return false, err
		}
		if why != "" {
			o.pods, o.flags, o.status = nil, "UF", http.StatusServiceUnavailable
			if x.Action.GetRetryPolicy() != nil {
				o.flags = "UF,URX"
			}
			delete(o.words, "details")
			o.words["details"] = unknown
			return true, nil
		}
	}
	return false, nil
}

func values(headers []simulate.Header) map[string]string {
	out := map[string]string{}
	for _, h := range headers {
		v := h.Value
		if strings.Contains(v, "%") && strings.Count(v, "%") > 1 {
			v = unknown
		}
		if was, ok := out[h.Name]; ok {
			v = was + "," + v
		}
		out[h.Name] = v
	}
	return out
}

// application is what the echo program answers to the request as it came, and what the caller sees of it.
func application(o *observed, x *simulate.Outcome) {
	o.status = http.StatusOK
	for _, h := range x.Request.Headers {
		if h.Name == "x-grpc" {
			o.words["grpc"] = h.Value
			o.partial = h.Value != "0" && x.Action.GetRetryPolicy() != nil
		}
	}
	if o.words["grpc"] == "" {
		o.words["grpc"] = "0"
	}
	_, query, _ := strings.Cut(x.Request.Path, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return
	}
	for _, k := range []string{"delay", "reset", "close", "fail", "body-delay"} {
		o.partial = o.partial || q.Has(k)
	}
	if n, err := strconv.Atoi(q.Get("status")); err == nil {
		o.status = n
		if x.Action.GetRetryPolicy() != nil {
			o.partial = true
		}
	}
	if o.partial {
		delete(o.words, "details")
	}
	var answer []simulate.Header
	for _, h := range q["header"] {
		name, value, _ := strings.Cut(h, ": ")
		answer = append(answer, simulate.Header{Name: strings.ToLower(name), Value: value})
	}
	o.response = values(simulate.Apply(answer, x.Response, func(v string) string { return strings.ReplaceAll(v, "%%", "%") }))
}
