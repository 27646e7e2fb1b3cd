package kube

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/ca"
)

const system = "istio-system"

var labels = map[string]string{"app.kubernetes.io/managed-by": "weir"}

func open(ctx context.Context, client kubernetes.Interface, log *bytes.Buffer) (*Authority, error) {
	l := slog.New(slog.DiscardHandler)
	if log != nil {
		l = slog.New(slog.NewTextHandler(log, nil))
	}
	return Open(ctx, Options{Client: client, Namespace: system, TrustDomain: "cluster.local", Labels: labels, Log: l})
}

func mustOpen(t *testing.T, client kubernetes.Interface, log *bytes.Buffer) *Authority {
	t.Helper()
	a, err := open(t.Context(), client, log)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// background runs something until the test ends it.
func background(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func selfSigned(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := ca.NewSelfSigned("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func secret(name string, files map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}, Data: files}
}

func put(t *testing.T, client kubernetes.Interface, s *corev1.Secret) {
	t.Helper()
	secrets := client.CoreV1().Secrets(system)
	if _, err := secrets.Update(t.Context(), s, metav1.UpdateOptions{}); err == nil {
		return
	}
	if _, err := secrets.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func rootOf(s ca.Source) string {
	a, _ := s.Watch()
	return string(a.Bundle().PEM())
}

// Replicas that start at once on an empty cluster have one root, and so has the next one.
func TestOneRoot(t *testing.T) {
	client := fake.NewClientset()
	roots := make([]string, 8)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			a, err := open(t.Context(), client, nil)
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = rootOf(a)
		})
	}
	wg.Wait()
	s, err := client.CoreV1().Secrets(system).Get(t.Context(), OwnSecret, metav1.GetOptions{})
	if err != nil || s.Type != "istio.io/ca-root" || !maps.Equal(s.Labels, labels) {
		t.Fatalf("%+v %v", s, err)
	}
	for _, r := range append(roots, rootOf(mustOpen(t, client, nil))) {
		if r != string(s.Data[RootKey]) {
			t.Fatal("two roots")
		}
	}
}

func TestOpen(t *testing.T) {
	ours, plugged := selfSigned(t), selfSigned(t)
	manager := map[string][]byte{"tls.key": plugged["ca-key.pem"], "tls.crt": plugged["ca-cert.pem"], "ca.crt": plugged[RootKey]}
	istio := map[string][]byte{"ca-key.pem": ours["ca-key.pem"], "ca-cert.pem": ours["ca-cert.pem"], RootKey: nil, "cert-chain.pem": nil, "key.pem": nil}
	bad := maps.Clone(plugged)
	bad["ca-cert.pem"] = ours["ca-cert.pem"]
	for _, c := range []struct {
		name         string
		plugged, own map[string][]byte
		root         []byte
		err          string
	}{
		{"Istio's own", nil, istio, ours[RootKey], ""},
		{"plugged in", plugged, nil, plugged[RootKey], ""},
		{"plugged in beside an own one", plugged, ours, plugged[RootKey], ""},
		{"plugged in by cert-manager", manager, nil, plugged[RootKey], ""},
		{"plugged in wrongly, which must not make another root", bad, nil, nil, "Secret istio-system/cacerts cannot be used: the signing certificate does not belong to the signing key (files ca-key.pem, ca-cert.pem"},
		{"plugged in wrongly beside an own one", map[string][]byte{"ca-key.pem": []byte("x")}, ours, nil, "ca-key.pem: private key"},
		{"without a key", map[string][]byte{}, ours, nil, "either ca-key.pem or tls.key"},
	} {
		client := fake.NewClientset()
		if c.plugged != nil {
			put(t, client, secret(PluggedSecret, c.plugged))
		}
		if c.own != nil {
			put(t, client, secret(OwnSecret, c.own))
		}
		a, err := open(t.Context(), client, nil)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || rootOf(a) != string(c.root) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// An operator plugs in an authority while the mesh runs, breaks it, replaces it and takes it
// away: there is always one in force, one takes another's place when everybody trusts it, and what is
// wrong is said once, by the key's name.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		client := fake.NewClientset()
		a := mustOpen(t, client, &log)
		own := rootOf(a)
		defer background(t, a.Run)()
		pass(time.Second)

		first := selfSigned(t)
		_, replaced := a.Watch()
		put(t, client, secret(PluggedSecret, first))
		pass(time.Second)
		select {
		case <-replaced:
		default:
			t.Error("nobody is told of the new authority")
		}
		if rootOf(a) != string(first[RootKey])+own || len(a.Notes()) != 2 {
			t.Fatalf("not trusted, or the old one is not\n%s", log.String())
		}
		pass(26 * time.Hour)
		if v := a.Views(time.Now()); len(v) != 2 || !v[0].Signs || v[1].Signs {
			t.Fatalf("a day later: %+v", v)
		}
		pass(26 * time.Hour)
		if rootOf(a) != string(first[RootKey]) || len(a.Notes()) != 0 {
			t.Fatalf("two days later: %v\n%s", a.Notes(), log.String())
		}

		broken := maps.Clone(first)
		broken["ca-cert.pem"] = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n")
		s := secret(PluggedSecret, broken)
		s.ResourceVersion = "2"
		put(t, client, s)
		pass(time.Second)
		if rootOf(a) != string(first[RootKey]) || !strings.Contains(a.Problem(), "ca-cert.pem") {
			t.Errorf("problem %q", a.Problem())
		}
		before := strings.Count(log.String(), "level=ERROR")
		put(t, client, s)
		pass(time.Hour)
		if n := strings.Count(log.String(), "level=ERROR"); before != 1 || n != 1 {
			t.Errorf("%d errors, then %d\n%s", before, n, log.String())
		}

		overlap := selfSigned(t)
		overlap[RootKey] = append(bytes.Clone(overlap[RootKey]), first[RootKey]...)
		put(t, client, secret(PluggedSecret, overlap))
		pass(26 * time.Hour)
		if v := a.Views(time.Now()); rootOf(a) != string(overlap[RootKey]) || a.Problem() != "" || !v[0].Signs {
			t.Errorf("problem %q\n%s", a.Problem(), log.String())
		}

		if err := client.CoreV1().Secrets(system).Delete(t.Context(), PluggedSecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(52 * time.Hour)
		if rootOf(a) != own {
			t.Error("not back to the mesh's own")
		}
		if err := client.CoreV1().Secrets(system).Delete(t.Context(), OwnSecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if rootOf(a) != own || !strings.Contains(a.Problem(), "are gone") {
			t.Errorf("problem %q", a.Problem())
		}
		// The leader puts it back, with the same root.
		stop := background(t, a.Keep)
		pass(time.Second)
		if rootOf(mustOpen(t, client, nil)) != own || a.Problem() != "" {
			t.Errorf("problem %q", a.Problem())
		}
		stop()
	})
}

// Lists of revoked certificates in Secret cacerts are not read, and the log says so.
func TestRevocationListsInTheSecret(t *testing.T) {
	for _, list := range []string{"", "a list"} {
		data, log := selfSigned(t), &bytes.Buffer{}
		data[ca.RevokedFile] = []byte(list)
		client := fake.NewClientset()
		put(t, client, secret(PluggedSecret, data))
		if a := mustOpen(t, client, log); a.Problem() != "" || strings.Contains(log.String(), "level=WARN") != (list != "") || strings.Contains(log.String(), "file=ca-crl.pem") != (list != "") {
			t.Errorf("list %q: %s %s", list, a.Problem(), log)
		}
	}
}

// An operator replaces the root while all replicas restart: what they have signed stays good, and no replica trusts less than another.
func TestReplicasKnowWhatWasHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		first := mustOpen(t, client, nil)
		own := rootOf(first)
		stop := background(t, first.Keep)
		pass(time.Second)
		stop()

		second := selfSigned(t)
		put(t, client, secret(PluggedSecret, second))
		a, b := mustOpen(t, client, nil), mustOpen(t, client, nil)
		for _, x := range []*Authority{a, b} {
			if rootOf(x) != string(second[RootKey])+own || len(x.Notes()) != 1 {
				t.Errorf("after a restart: %v", x.Notes())
			}
		}
		stopFollowing, stopKeeping := background(t, a.Run), background(t, a.Keep)
		pass(24 * time.Hour)
		if c := mustOpen(t, client, nil); rootOf(c) != string(second[RootKey])+own {
			t.Error("a replica of the next day trusts less than the others")
		}
		pass(2 * time.Hour)
		if c := mustOpen(t, client, nil); rootOf(a) != string(second[RootKey]) || rootOf(c) != rootOf(a) {
			t.Errorf("two days later: %v, %v", a.Notes(), c.Notes())
		}
		stopKeeping()
		stopFollowing()

		third := selfSigned(t)
		third[ca.DistrustedFile] = second[RootKey]
		put(t, client, secret(PluggedSecret, third))
		if d := mustOpen(t, client, nil); rootOf(d) != string(third[RootKey]) {
			t.Error("a stolen root is trusted by a replica that starts")
		}
	})
}

// The mesh's own root is succeeded in time, by the leader, and all replicas follow: for the
// longest life of a certificate both are trusted and the old signs, for as long again both are
// trusted and the new signs. What others read in the Secret is who signs.
func TestSuccession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		leader, other := mustOpen(t, client, nil), mustOpen(t, client, nil)
		first, _ := leader.Watch()
		end := first.RootNotAfter()
		step := func(before time.Duration, signs, trusted int) {
			t.Helper()
			time.Sleep(time.Until(end.Add(-before)))
			// What Run and Keep do every half minute.
			for _, x := range []*Authority{leader, other} {
				x.look()
			}
			if err := leader.succeed(t.Context()); err != nil {
				t.Error(err)
			}
			now, err := leader.get(t.Context(), OwnSecret)
			if err != nil {
				t.Fatal(err)
			}
			leader.take(nil, now)
			other.take(nil, now)
			for _, x := range []*Authority{leader, other, mustOpen(t, client, nil)} {
				held, _ := x.Watch()
				v := x.Views(time.Now())
				s := slices.IndexFunc(v, func(v ca.View) bool { return v.Signs })
				if len(v) != trusted || len(held.Bundle().Roots()) != trusted || s < 0 || (v[s].Until.Equal(end)) != (signs == 0) {
					t.Errorf("%v before the end: %+v", before, v)
				}
			}
			plugged, err := ca.ParsePlugged(now.Data, "cluster.local", ca.Options{})
			if err != nil || plugged.RootNotAfter().Equal(end) != (signs == 0) {
				t.Errorf("%v before the end others read %v, %v", before, plugged, err)
			}
		}
		const day = 24 * time.Hour
		step(272*day, 0, 1)
		step(269*day, 0, 2)
		step(181*day, 0, 2)
		step(178*day, 1, 2)
		step(91*day, 1, 2)
		step(88*day, 1, 1)
	})
}
