package state

import (
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// secret is a decoded Secret: a certificate to show, or roots to judge by.
type secret struct {
	certificate *stdtls.Certificate
	validation  *tlsv3.CertificateValidationContext
}

// errAwaited says that a secret has been asked for and has not come: whoever needs it
// waits and is neither wrong nor live.
var errAwaited = errors.New("secret has not come yet")

// secretFor finds the secret of an SDS name and notes that the listener being decoded
// depends on it.
func (b *Builder) secretFor(name, path string) (*secret, error) {
	if !slices.Contains(b.uses, name) {
		b.uses = append(b.uses, name)
	}
	s := b.secrets[name]
	if s == nil {
		return nil, fmt.Errorf("%s: %q: %w", path, name, errAwaited)
	}
	return s, nil
}

func decodeSecret(m *tlsv3.Secret) (*secret, error) {
	path := "secret " + m.GetName()
	if err := check(m, path); err != nil {
		return nil, err
	}
	s := &secret{}
	switch {
	case m.GetTlsCertificate() != nil:
		var err error
		if s.certificate, err = decodeCertificate(m.GetTlsCertificate(), path+".tls_certificate"); err != nil {
			return nil, err
		}
	case m.GetValidationContext() != nil:
		// What is wrong with it is refused here, not at the listeners that use it.
		if _, err := decodeTrust(m.GetValidationContext(), path+".validation_context"); err != nil {
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
	set, err := decodeAll(u, func(_, _ string, m *tlsv3.Secret) (*secret, error) { return decodeSecret(m) })
	if err != nil {
		return err
	}
	before := b.secrets
	b.secrets = merged(before, set, u.Removed)
	// Listeners that show or trust one of them get new contexts; connections stay.
	again := map[string]*Listener{}
	for name, l := range next.listeners {
		if !slices.ContainsFunc(l.Secrets, func(s string) bool { return set[s] != nil || slices.Contains(u.Removed, s) }) {
			continue
		}
		d, err := b.decodeListener(l.source, l.Version)
		if err != nil {
			b.secrets = before
			return err
		}
		if d.Config != nil && l.Config != nil {
			d.Config.Use = l.Config.Use
		}
		again[name] = d
	}
	if len(again) > 0 {
		next.listeners = maps.Clone(next.listeners)
		maps.Copy(next.listeners, again)
	}
	return nil
}

// decodeListener makes a listener. One whose secrets have not all come has no Config
// yet.
func (b *Builder) decodeListener(l *listenerv3.Listener, version string) (*Listener, error) {
	b.uses = nil
	out, err := b.decodeWholeListener(l, version)
	if errors.Is(err, errAwaited) {
		out, err = &Listener{Name: l.GetName(), Version: version}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(b.uses) > 0 {
		out.Secrets, out.source = b.uses, l
	}
	return out, nil
}
