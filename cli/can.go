package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/access"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/xds/simulate"
)

// outsider is who calls without a proxy.
const outsider = "outside"

// inboundListener takes what comes in to a sidecar.
const inboundListener = "virtualInbound"

// verdicts beside those of package access.
const (
	unreached = "unreached" // the caller's own proxy answers, or nobody serves it
	mixed     = "mixed"     // it depends on who serves the call
)

// permission is the answer of `weir can`.
type permission struct {
	Verdict  string    `json:"verdict"`
	From     string    `json:"from"`
	Identity string    `json:"identity,omitempty"` // "": the caller has no proxy
	Call     string    `json:"call"`
	Arrivals []arrival `json:"arrivals"`
}

// arrival is one thing that can become of the call.
type arrival struct {
	Share     float64 `json:"share"` // of calls like this
	Workload  string  `json:"workload,omitempty"`
	Port      uint16  `json:"port,omitempty"`
	Transport string  `json:"transport,omitempty"` // mtls, tls (of the caller's own), plaintext
	Via       string  `json:"via,omitempty"`       // gateways that it passes
	Request   string  `json:"request,omitempty"`   // as it arrives, where the caller's proxy changed it
	access.Answer
}

func (a *app) can() *cobra.Command {
	var q question
	var files []string
	cmd := &cobra.Command{
		Use:   "can FROM [METHOD] URL [flags]",
		Short: "say whether a call is allowed, and which policy and rule decide",
		Long: `Say whether a call is allowed, and which policy and rule decide: where the
caller's proxy sends it and how, and what the proxy of each workload that may
serve it says of it. Conditions are evaluated by the proxies' own code, of the
configuration in force. Nothing is called.

FROM is a workload (pod or Deployment), an identity as in policies
(cluster.local/ns/shop/sa/cart), or "` + outsider + `" for somebody without a proxy. URL is
http://HOST[:PORT]/PATH or https:// with a METHOD, or tcp://HOST:PORT. HOST may
be the service of a gateway, -H 'host: NAME' what it is asked for there: the call
goes on by the gateway's routes, as the gateway's own. https is TLS that the
caller itself speaks, to that name: where a gateway's server ends it, requests are
judged, and else, as behind PASSTHROUGH, the connection and the server's name.

Where a rule asks for what was not given (a header, a token, the address of an
identity) and it matters, the answer is "unknown" and says what it depends on.
Give it: -H for headers, --token, --claims or --no-token, --from-ip, --client-cert
or --no-client-cert.

With -f the objects in files are what is in force, and no mesh is needed:
Deployments stand for their pods.

Exit status 0 if the call is allowed wherever it may arrive, 1 if not.`,
		Example: `  weir can productpage-v1 GET http://reviews:9080/reviews/0
  weir can cluster.local/ns/shop/sa/cart POST http://pay.shop/charge --no-token
  weir can outside GET http://reviews:9080/ -o json
  weir can outside GET http://edge.istio-system/ -H 'host: shop.example'
  weir can outside GET https://edge.gw/ -H 'host: a.b' --client-cert c.pem
  weir can client tcp://tcp-echo:9000
  weir can web GET http://api/ --claims '{"iss":"me","sub":"ann"}' -f deploy/`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || len(args) > 3 {
				return usage("for example `weir can productpage-v1 GET http://reviews:9080/reviews/0`", "weir can takes who calls, a method and a URL")
			}
			return nil
		},
		ValidArgsFunction: a.completeWorkloads(&q.namespace),
	}
	output := outputFlag(cmd)
	a.namespaceFlag(cmd, &q.namespace)
	filesFlag(cmd, &files)
	cmd.Flags().StringArrayVarP(&q.headers, "header", "H", nil, "`'name: value'` of a header; 'name:' says that there is none")
	cmd.Flags().StringVar(&q.token, "token", "", "`token` (JWT) of the request, or @FILE")
	cmd.Flags().StringVar(&q.claims, "claims", "", "`JSON` of the claims of a token that is taken for signed")
	cmd.Flags().BoolVar(&q.noToken, "no-token", false, "the request has no token")
	cmd.Flags().StringVar(&q.certificate, "client-cert", "", "`FILE` (PEM) of the certificate that the caller shows in https, taken for one that is accepted")
	cmd.Flags().BoolVar(&q.noCertificate, "no-client-cert", false, "the caller shows none in https")
	cmd.Flags().StringVar(&q.ip, "from-ip", "", "`address` of the caller")
	noValues(cmd, "header", "token", "claims", "from-ip")
	cmd.MarkFlagsMutuallyExclusive("token", "claims", "no-token")
	cmd.MarkFlagsMutuallyExclusive("client-cert", "no-client-cert")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), dumpTimeout)
		defer cancel()
		if q.namespace == "" {
			q.namespace = a.namespace()
		}
		call, err := q.call(args)
		if err != nil {
			return err
		}
		w, err := a.world(ctx, files, q.namespace)
		if err != nil {
			return err
		}
		p, err := w.may(ctx, &q, args[0], call)
		if err != nil {
			return err
		}
		if output.value != asTable {
			err = a.out.emit(output.value, p)
		} else {
			a.out.permission(p)
		}
		if err == nil && p.Verdict != string(access.Allowed) {
			return silent(exitNo)
		}
		return err
	}
	return cmd
}

// question is what flags say about a call.
type question struct {
	namespace, token, claims, ip string
	headers                      []string
	noToken                      bool
	certificate                  string
	noCertificate                bool
}

// target is what is called.
type callee struct {
	method, host, path string // of requests
	secure             bool   // in TLS of the caller's own
	name               string // of the service
	port               uint16
}

func (t *callee) String() string {
	if t.method == "" {
		return "tcp://" + net.JoinHostPort(t.name, strconv.Itoa(int(t.port)))
	}
	scheme := "http"
	if t.secure {
		scheme = "https"
	}
	return fmt.Sprintf("%s %s://%s%s", t.method, scheme, t.host, t.path)
}

// call reads the arguments.
func (q *question) call(args []string) (callee, error) {
	last := args[len(args)-1]
	u, err := url.Parse(last)
	if err != nil || u.Host == "" {
		return callee{}, usage("http://HOST[:PORT]/PATH, https://HOST[:PORT]/PATH or tcp://HOST:PORT", "%q is not a URL", last)
	}
	t := callee{name: strings.ToLower(u.Hostname()), host: u.Host, path: cmp.Or(u.EscapedPath(), "/"), secure: u.Scheme == "https"}
	if strings.Contains(u.RawPath, `\`) { // what EscapedPath makes of it is another path
		t.path = u.RawPath
	}
	if u.RawQuery != "" {
		t.path += "?" + u.RawQuery
	}
	switch {
	case u.Scheme == "http" && len(args) == 3:
		t.method, t.port = strings.ToUpper(args[1]), 80
	case t.secure && len(args) == 3:
		t.method, t.port = strings.ToUpper(args[1]), 443
	case u.Scheme == "http", t.secure:
		return t, usage("for example `weir can "+args[0]+" GET "+last+"`", "a request has a method")
	case u.Scheme == "tcp" && len(args) == 3:
		return t, usage("`weir can "+args[0]+" "+last+"`", "a connection has no method")
	case u.Scheme == "tcp":
		t.path = ""
	default:
		return t, usage("tcp://"+u.Host+" asks for the connection", "the scheme %q is none of http, https and tcp", u.Scheme)
	}
	if s := u.Port(); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return t, usage("1 to 65535", "%q is not a port", s)
		}
		t.port = uint16(n)
	}
	if t.port == 0 {
		return t, usage("tcp://HOST:PORT", "%s names no port", last)
	}
	return t, nil
}

// known is what flags say of a request.
func (q *question) known(c *access.Call) error {
	c.Headers, c.Now = map[string]string{}, time.Now()
	for _, h := range q.headers {
		name, value, ok := strings.Cut(h, ":")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || name == "" {
			return usage("-H 'name: value'", "%q is not a header", h)
		}
		c.Headers[name] = strings.TrimSpace(value)
	}
	switch file, isFile := strings.CutPrefix(q.token, "@"); {
	case isFile:
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading the token: %w", err)
		}
		c.Token = access.Token{Given: true, Text: strings.TrimSpace(string(data))}
	case q.token != "":
		c.Token = access.Token{Given: true, Text: q.token}
	case q.claims != "":
		d := json.NewDecoder(strings.NewReader(q.claims))
		d.UseNumber()
		if err := d.Decode(&c.Token.Claims); err != nil || c.Token.Claims == nil {
			return usage(`--claims '{"iss":"https://id.example","sub":"ann"}'`, "the claims are no JSON object")
		}
		c.Token.Given = true
	case q.noToken:
		c.Token.Given = true
	}
	if q.certificate != "" {
		text, err := os.ReadFile(q.certificate)
		if err != nil {
			return fmt.Errorf("reading the client's certificate: %w", err)
		}
		chain, err := identity.ParseCertificates(text)
		if err != nil {
			return fmt.Errorf("the client's certificate %s: %w", q.certificate, err)
		}
		c.Shown = chain[0]
	}
	c.Unshown = c.Own != "" && c.Shown == nil && !q.noCertificate
	if c.Own == "" && (c.Shown != nil || q.noCertificate) {
		return usage("https://HOST/PATH", "a certificate of the client's is shown in TLS of its own, and the call has none")
	}
	if q.ip != "" {
		ip, err := netip.ParseAddr(q.ip)
		if err != nil {
			return usage("for example --from-ip 10.1.2.3", "%q is not an address", q.ip)
		}
		c.From = ip
	}
	return nil
}

// may follows a call from who makes it to everyone who may serve it.
func (w *world) may(ctx context.Context, q *question, from string, t callee) (*permission, error) {
	out := &permission{From: from, Call: t.String()}
	c := access.Call{Method: t.method, Host: t.host, Path: t.path}
	if t.secure {
		c.Own = t.name
	}
	if err := q.known(&c); err != nil {
		return nil, err
	}
	if h := c.Headers["host"]; h != "" { // as of a request that a name led to a gateway
		c.Host = h
		delete(c.Headers, "host")
		if u := (&url.URL{Host: h}); t.secure {
			c.Own = strings.ToLower(u.Hostname())
		}
	}
	caller, err := w.caller(from, q.namespace)
	if err != nil {
		return nil, err
	}
	home := q.namespace
	var proxy *apiv1.Workload // whose routes count
	switch {
	case caller != nil:
		home, out.From = caller.Namespace, caller.Namespace+"/"+cmp.Or(caller.Owner, caller.Name)
		if caller.Proxied {
			out.Identity, proxy = caller.Identity, caller
		}
		if a := caller.Addresses; !c.From.IsValid() && len(a) == 1 {
			c.From, _ = netip.ParseAddr(a[0]) // else it stays unknown
		}
	case from != outsider:
		out.Identity = "spiffe://" + strings.TrimPrefix(from, "spiffe://")
		if parts := strings.Split(from, "/ns/"); len(parts) == 2 {
			home, _, _ = strings.Cut(parts[1], "/")
		}
	}
	c.ID = out.Identity
	svc, port, err := w.service(t, home)
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		out.Arrivals, err = w.routed(ctx, proxy, svc, port, c)
	} else {
		out.Arrivals, err = w.direct(ctx, svc, port, c)
	}
	if err != nil {
		return nil, err
	}
	for _, x := range out.Arrivals {
		if out.Verdict != "" && out.Verdict != string(x.Verdict) {
			out.Verdict = mixed
			break
		}
		out.Verdict = string(x.Verdict)
	}
	return out, nil
}

// caller finds a workload by its name, that of its Deployment, or either with a namespace; nil is no workload of the mesh.
func (w *world) caller(from, namespace string) (*apiv1.Workload, error) {
	if from == outsider || strings.Contains(from, "/ns/") {
		return nil, nil
	}
	ns, name := namespace, from
	if a, b, ok := strings.Cut(from, "/"); ok {
		ns, name = a, b
	}
	var known []string
	for i := range w.workloads {
		x := &w.workloads[i]
		if x.Namespace == ns && (x.Name == name || x.Owner == name) {
			return x, nil
		}
		known = append(known, x.Namespace+"/"+cmp.Or(x.Owner, x.Name))
	}
	hint := "a workload, an identity as cluster.local/ns/NAMESPACE/sa/NAME, or " + outsider
	if near := document.Suggest(ns+"/"+name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return nil, hinted(hint, "there is no workload %s/%s", ns, name)
}

// service finds what a name means to somebody in a namespace.
func (w *world) service(t callee, home string) (*apiv1.Service, *apiv1.ServicePort, error) {
	names := []string{t.name, t.name + "." + home + ".svc.cluster.local", t.name + ".svc.cluster.local", t.name + ".cluster.local"}
	var known []string
	for _, n := range names {
		for i := range w.services {
			s := &w.services[i]
			if s.Hostname != n && (s.Kind != "Service" || s.Name+"."+s.Namespace+".svc.cluster.local" != n) {
				continue
			}
			var ports []string
			for j := range s.Ports {
				if s.Ports[j].Number == t.port {
					return s, &s.Ports[j], nil
				}
				ports = append(ports, strconv.Itoa(int(s.Ports[j].Number)))
			}
			return nil, nil, hinted("its ports are "+joined(ports), "%s has no port %d", s.Hostname, t.port)
		}
	}
	meant := map[string]string{} // by what somebody may have written
	for i := range w.services {
		s := &w.services[i]
		full := s.Hostname
		if s.Kind == "Service" {
			full = s.Name + "." + s.Namespace
		}
		known = append(known, s.Name, full)
		if meant[full] = full; s.Namespace == home && s.Kind == "Service" {
			meant[s.Name] = s.Name
		} else if meant[s.Name] == "" {
			meant[s.Name] = full // a short name means a service of one's own namespace
		}
	}
	hint := "`weir get services -A` lists those there are"
	if near := document.Suggest(t.name, known); near != "" {
		hint = "did you mean " + meant[near] + "?"
	}
	return nil, nil, hinted(hint, "%s is no service of the mesh: what leaves the mesh no policy of a workload is about", t.name)
}

// routed is what becomes of a call that goes by the caller's proxy.
func (w *world) routed(ctx context.Context, from *apiv1.Workload, svc *apiv1.Service, port *apiv1.ServicePort, c access.Call) ([]arrival, error) {
	p, err := w.config(ctx, from.Namespace, from.Name, "")
	if err != nil {
		return nil, err
	}
	call := simulate.Call{From: netip.AddrPortFrom(c.From, 0), Method: c.Method, Host: c.Host, Path: c.Path, Bytes: c.Method == "", SNI: c.Own}
	for name, v := range c.Headers {
		if v != "" {
			call.Headers = append(call.Headers, simulate.Header{Name: name, Value: v})
		}
	}
	var to netip.Addr
	for _, s := range svc.Addresses {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			to = a
			break
		}
	}
	call.To = netip.AddrPortFrom(to, port.Number)
	if !to.IsValid() { // headless: a client connects to one of them
		for i := range port.Backends {
			if ap, err := netip.ParseAddrPort(port.Backends[i].Address); err == nil {
				call.To = ap
				break
			}
		}
	}
	if !call.To.IsValid() {
		return []arrival{{Share: 1, Answer: access.Answer{Verdict: unreached, Why: "nobody serves " + svc.Hostname}}}, nil
	}
	if gatewayed(p) {
		return w.direct(ctx, svc, port, c) // it is no client of the mesh's services: its routes are for those who call it
	}
	return w.follow(ctx, p, call, c, "the caller's own proxy", "")
}

// direct is what becomes of a call of somebody whose routes are not known, at everyone who serves the port.
func (w *world) direct(ctx context.Context, svc *apiv1.Service, port *apiv1.ServicePort, c access.Call) ([]arrival, error) {
	if len(port.Backends) == 0 {
		return []arrival{{Share: 1, Answer: access.Answer{Verdict: unreached, Why: "nobody serves " + svc.Hostname}}}, nil
	}
	var out []arrival
	if c.ID == "" {
		c.SNI = new(c.Own)
	}
	for i := range port.Backends {
		c := c
		c.TLS = c.ID != ""
		got, err := w.arrive(ctx, arrival{Share: 1 / float64(len(port.Backends))}, port.Backends[i].Address, c)
		if err != nil {
			return nil, err
		}
		out = add(out, got...)
	}
	return out, nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// add counts replicas that say the same as one.
func add(all []arrival, more ...arrival) []arrival {
	for _, x := range more {
		all = addOne(all, x)
	}
	return all
}

func addOne(all []arrival, x arrival) []arrival {
	for i := range all {
		o := all[i]
		o.Share = x.Share
		a, _ := json.Marshal(o) //nolint:errcheck // it is what -o json writes
		b, _ := json.Marshal(x) //nolint:errcheck // as above
		if string(a) == string(b) {
			all[i].Share += x.Share
			return all
		}
	}
	return append(all, x)
}

func (p *printer) permission(x *permission) {
	colors := map[string]color{string(access.Allowed): green, string(access.Denied): red, unreached: red}
	p.printf("%s: %s: %s\n", x.From, x.Call, p.paint(cmp.Or(colors[x.Verdict], yellow), x.Verdict))
	for _, a := range x.Arrivals {
		where := a.Workload
		if a.Port != 0 {
			where += fmt.Sprintf(" port %d", a.Port)
		}
		if a.Transport != "" {
			where += ", " + map[string]string{"mtls": "mutual TLS", "tls": "TLS", "plaintext": "plaintext"}[a.Transport]
		}
		if where == "" {
			where = "before it leaves"
		}
		if a.Via != "" {
			where += ", by " + a.Via
		}
		if len(x.Arrivals) > 1 {
			where += fmt.Sprintf(" (%.0f %%)", 100*a.Share)
		}
		p.printf("  %s: %s: %s\n", clean(where), p.paint(cmp.Or(colors[string(a.Verdict)], yellow), string(a.Verdict)), clean(a.Why))
		if a.Policy != "" {
			p.printf("    %s rules[%d]\n", clean(decider(a.Policy)), *a.Rule)
		}
		if a.Request != "" {
			p.printf("    arrives as %s\n", clean(a.Request))
		}
		if len(a.Needs) > 0 {
			p.printf("    depends on %s\n", clean(joined(a.Needs)))
		}
		for _, s := range a.Notes {
			p.printf("    %s\n", clean(s))
		}
	}
}

// decider names a policy and its kind; what an object of Istio before 1.5 came to is called by that and the service.
func decider(policy string) string {
	if p := strings.Split(policy, "/"); len(p) == 4 {
		return fmt.Sprintf("%s %s/%s for %s", p[1], p[0], p[2], p[3])
	}
	return "AuthorizationPolicy " + policy
}
