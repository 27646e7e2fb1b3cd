package state

import (
	"cmp"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
)

// secret is a decoded Secret: a certificate to show, or roots to judge by.
type secret struct {
	certificate *stdtls.Certificate
	validation  *tlsv3.CertificateValidationContext
}

// errAwaited says that something has been asked for by name and has not come: whoever needs it
// waits and is neither wrong nor live.
var errAwaited = errors.New("has not come yet")

// SecretName is what a secret is asked for by: the same name at two servers is two secrets.
type SecretName struct {
	From Server
	Name string
}

// Server is who is asked for a secret; the zero value is the control plane, by ADS.
type Server struct {
	Target  string // unix:PATH, as gRPC takes it
	Cluster string // instead: the cluster where it is
	SotW    bool
}

func (s Server) String() string { return cmp.Or(s.Target, s.Cluster) }

func (s Server) compare(o Server) int {
	return cmp.Or(cmp.Compare(s.Target, o.Target), cmp.Compare(s.Cluster, o.Cluster))
}

func (n SecretName) compare(o SecretName) int {
	return cmp.Or(n.From.compare(o.From), cmp.Compare(n.Name, o.Name))
}

// server is who an SDS configuration names.
func server(c *corev3.ConfigSource, path string) (Server, error) {
	a := c.GetApiConfigSource()
	if a == nil {
		return Server{}, nil
	}
	path += ".sds_config.api_config_source"
	out := Server{}
	switch a.GetApiType() {
	case corev3.ApiConfigSource_GRPC:
		out.SotW = true
	case corev3.ApiConfigSource_DELTA_GRPC:
	default:
		return out, fmt.Errorf("%s.api_type: %v is not supported", path, a.GetApiType())
	}
	if len(a.GetGrpcServices()) != 1 {
		return out, fmt.Errorf("%s.grpc_services: %d services, one is supported", path, len(a.GetGrpcServices()))
	}
	g := a.GetGrpcServices()[0]
	path += ".grpc_services[0]"
	switch { // of what GrpcService has, others read more
	case len(g.GetInitialMetadata()) > 0:
		return out, fmt.Errorf("%s.initial_metadata: field is not supported", path)
	case g.GetEnvoyGrpc().GetAuthority() != "":
		return out, fmt.Errorf("%s.envoy_grpc.authority: field is not supported", path)
	}
	if out.Cluster = g.GetEnvoyGrpc().GetClusterName(); out.Cluster != "" {
		return out, nil
	}
	out.Target = g.GetGoogleGrpc().GetTargetUri()
	if !strings.HasPrefix(out.Target, "unix:") { // keys go by no wire that others can read
		return out, fmt.Errorf("%s: is neither a cluster nor a Unix socket (unix:PATH)", path)
	}
	return out, nil
}

// SecretServer is where the cluster of an SDS server is: a Unix socket, or an error that says why there is none.
func (b *Builder) SecretServer(name string) (target string, err error) {
	s := b.specs[name]
	if s == nil {
		return "", fmt.Errorf("cluster %q of an SDS server is not there", name)
	}
	for _, e := range b.endpointsOf(s).endpoints {
		if e.pipe != "" {
			return "unix:" + e.pipe, nil
		}
	}
	return "", fmt.Errorf("cluster %q of an SDS server has no endpoint at a Unix socket (pipe)", name)
}

// own reports whether an SDS name means the workload's own identity, which this proxy fetches by itself.
func (b *Builder) own(name, of string) bool {
	return name == of && !b.opts.Strange
}

// secretFor finds the secret of an SDS name and notes that what is being decoded
// depends on it.
func (b *Builder) secretFor(c *tlsv3.SdsSecretConfig, path string) (*secret, error) {
	from, err := server(c.GetSdsConfig(), path)
	if err != nil {
		return nil, err
	}
	name := SecretName{from, c.GetName()}
	if !slices.Contains(b.uses.secrets, name) {
		b.uses.secrets = append(b.uses.secrets, name)
	}
	s := b.secrets[name]
	if s == nil {
		return nil, fmt.Errorf("%s: secret %q %w", path, c.GetName(), errAwaited)
	}
	return s, nil
}

func (b *Builder) decodeSecret(m *tlsv3.Secret) (*secret, error) {
	path := "secret " + m.GetName()
	if err := check(m, path); err != nil {
		return nil, err
	}
	s := &secret{}
	switch {
	case m.GetTlsCertificate() != nil:
		var err error
		if s.certificate, err = b.decodeCertificate(m.GetTlsCertificate(), path+".tls_certificate"); err != nil {
			return nil, err
		}
	case m.GetValidationContext() != nil:
		// What is wrong with it is refused here, not at the listeners that use it.
		if _, err := b.decodeTrust(m.GetValidationContext(), path+".validation_context"); err != nil {
			return nil, err
		}
		s.validation = m.GetValidationContext()
	default:
		return nil, fmt.Errorf("%s: is neither a certificate nor a validation context", path)
	}
	return s, nil
}

func (b *Builder) applySecrets(next *State, u Update) error {
	if err := b.room(len(b.secrets), len(u.Set), "secrets"); err != nil {
		return err
	}
	b.uses = uses{}
	set, err := decodeAll(u, func(_, _ string, m *tlsv3.Secret) (*secret, error) { return b.decodeSecret(m) })
	if err != nil {
		return err
	}
	before, without := b.secrets, b.noSecret
	b.secrets, b.noSecret = maps.Clone(before), maps.Clone(without)
	for name, x := range set {
		b.secrets[SecretName{u.From, name}] = x
		delete(b.noSecret, SecretName{u.From, name})
	}
	for _, name := range u.Removed {
		delete(b.secrets, SecretName{u.From, name})
		b.noSecret[SecretName{u.From, name}] = true
	}
	names := func(s SecretName) bool {
		return s.From == u.From && (set[s.Name] != nil || slices.Contains(u.Removed, s.Name))
	}
	err = b.again(next, func(l *Listener) bool { return slices.ContainsFunc(l.Secrets, names) })
	if err == nil {
		err = b.clustersAgain(next, func(s *clusterSpec) bool { return slices.ContainsFunc(s.secrets, names) })
	}
	if err != nil {
		b.secrets, b.noSecret = before, without
	}
	return err
}

// awaited says of secrets, of which one at least is not there, which it is, and whether it may come: nobody has said yet that there is none.
func (b *Builder) awaited(names []SecretName) (refused string, may bool) {
	for _, n := range names {
		switch {
		case b.noSecret[n]:
			return "secret " + n.Name + " does not exist", false
		case b.secrets[n] == nil && refused == "":
			refused = "secret " + n.Name + " has not come"
		}
	}
	return refused, true
}

// clustersAgain makes clusters anew for which something came that they name. Connections stay: they were right when they
// were made.
func (b *Builder) clustersAgain(next *State, concerned func(*clusterSpec) bool) error {
	made := map[string]*clusterSpec{}
	for name, s := range b.specs {
		if !concerned(s) {
			continue
		}
		now, err := b.decodeCluster(s.source)
		if err != nil {
			return err
		}
		now.Version, now.before = s.Version, s.before
		made[name] = now
	}
	if len(made) > 0 {
		next.clusters = slices.Clone(next.clusters)
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		b.specs[name] = made[name]
		b.publish(next, made[name])
	}
	return nil
}

// again makes listeners anew for which something came that they name: those that show or trust a secret get new
// contexts, and connections stay.
func (b *Builder) again(next *State, concerned func(*Listener) bool) error {
	made := map[string]*Listener{}
	for name, l := range next.listeners {
		if !concerned(l) {
			continue
		}
		d, err := b.remade(l)
		if err != nil {
			return err
		}
		made[name] = d
	}
	if len(made) > 0 {
		next.listeners = maps.Clone(next.listeners)
		maps.Copy(next.listeners, made)
	}
	return nil
}

// remade is a listener with what it names as that is now.
func (b *Builder) remade(l *Listener) (*Listener, error) {
	d, err := b.decodeListener(l.source, l.Version)
	if err == nil && d.Config != nil && l.Config != nil {
		d.Config.Use = l.Config.Use
	}
	return d, err
}

// uses is what the listener or cluster being decoded names and others send.
type uses struct {
	secrets    []SecretName
	extensions []string
	unserved   []error // why chains take nobody
	files      []string
	keys       []*jwtauthn.Source // of tokens, that the proxy fetches
	skipped    []Skipped
	unheeded   []Unheeded
	patience   time.Duration // for route tables; negative: there are none
}

// heed notes what settings of a filter would change and do not.
func (b *Builder) heed(url string, config *anypb.Any, path string) error {
	told, err := unheeded(url, config, path)
	b.uses.unheeded = append(b.uses.unheeded, told...)
	return err
}

func (u *uses) any() bool { return len(u.secrets)+len(u.extensions) > 0 }

// decodeListener makes a listener. One for which not everything has come that it names has no
// Config yet.
func (b *Builder) decodeListener(l *listenerv3.Listener, version string) (*Listener, error) {
	b.uses = uses{patience: -1}
	out, err := b.decodeWholeListener(l, version)
	if errors.Is(err, errAwaited) {
		out, err = &Listener{Name: l.GetName(), Version: version}, nil
	}
	if err != nil {
		return nil, err
	}
	if b.uses.any() || len(b.uses.files) > 0 {
		out.Secrets, out.Extensions, out.source = b.uses.secrets, b.uses.extensions, l
		out.files, out.unserved = b.uses.files, len(b.uses.unserved)
	}
	out.keys, out.Skipped, out.unheeded, out.patience = b.uses.keys, b.uses.skipped, b.uses.unheeded, b.uses.patience
	return out, nil
}
