package objects

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1alpha1 "istio.io/api/security/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/ca"
	cakube "github.com/weirmesh/weir/ca/kube"
	caserver "github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/leader"
	"github.com/weirmesh/weir/test/kube/cluster"
)

func background(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func open(ctx context.Context, c kubernetes.Interface, ns string) (*cakube.Authority, error) {
	return cakube.Open(ctx, cakube.Options{Client: c, Namespace: ns, TrustDomain: "cluster.local", Labels: map[string]string{"app.kubernetes.io/managed-by": "weir"}, Log: slog.New(slog.DiscardHandler)})
}

func rootOf(s ca.Source) string {
	a, _ := s.Watch()
	return string(a.Bundle().PEM())
}

// pod makes a service account and a pod of it, which need not run to have tokens.
func pod(t *testing.T, c kubernetes.Interface, ns, account string) *corev1.Pod {
	t.Helper()
	if _, err := c.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := c.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: account + "-0"}, Spec: corev1.PodSpec{
		ServiceAccountName: account, NodeSelector: map[string]string{"nowhere": "true"}, Containers: []corev1.Container{{Name: "app", Image: "none"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mint(t *testing.T, c kubernetes.Interface, ns, account, audience string, to *corev1.Pod) string {
	t.Helper()
	seconds := int64(600)
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if audience != "" {
		r.Spec.Audiences = []string{audience}
	}
	if to != nil {
		r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: to.Name, UID: to.UID}
	}
	r, err := c.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), account, r, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

// expired is a token that says it ended; nobody can wait for a real one, which lives for ten
// minutes at least.
func expired(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(body), `"exp":`) + len(`"exp":`)
	text := string(body[:at]) + fmt.Sprint(time.Now().Add(-time.Minute).Unix()) + string(body[at+10:])
	return parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(text)) + "." + parts[2]
}

// A pod's token gets the certificate of its service account, and nothing else does.
func TestCertificates(t *testing.T) {
	k := cluster.Connect(t)
	c := k.Client
	system, shop := k.NewNamespace(), k.NewNamespace()
	authority, err := open(t.Context(), c, system)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(mounted bool) securityv1alpha1.IstioCertificateServiceClient {
		reviewer, err := cakube.NewReviewer(cakube.ReviewerOptions{Reviews: c.AuthenticationV1(), TrustDomain: "cluster.local", Mounted: mounted, Uses: cakube.Uses(c.CoreV1().Secrets(system), nil), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s, err := caserver.New(caserver.Options{Authority: authority, Authenticators: []caserver.Authenticator{reviewer}, TrustDomains: func() []string { return []string{"cluster.local"} }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		istiod := identity.ID{TrustDomain: "cluster.local", Namespace: system, ServiceAccount: "istiod"}
		serving := ca.NewServing(authority, ca.Grant{ID: istiod, DNSNames: cakube.ServerNames(system, "")}, slog.New(slog.DiscardHandler))
		g := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(serving, identity.TrustDomains{"cluster.local"}, false))))
		s.Register(g)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = g.Serve(l) }()
		t.Cleanup(g.Stop)
		roots, err := identity.NewManager(identity.Options{ID: istiod, Signer: signsNothing{}, Bootstrap: bundle(authority), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(roots, identity.DNSName("istiod."+system+".svc")))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return securityv1alpha1.NewIstioCertificateServiceClient(conn)
	}
	strict, mounted := serve(false), serve(true)
	cart := pod(t, c, shop, "cart")
	other := pod(t, c, system, "other")
	id := identity.ID{TrustDomain: "cluster.local", Namespace: shop, ServiceAccount: "cart"}
	good := mint(t, c, shop, "cart", "istio-ca", cart)
	gone := pod(t, c, shop, "gone")
	left := mint(t, c, shop, "gone", "istio-ca", gone)
	now := int64(0)
	if err := c.CoreV1().Pods(shop).Delete(t.Context(), gone.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	k.Eventually("the pod is gone", func() bool {
		_, err := c.CoreV1().Pods(shop).Get(t.Context(), gone.Name, metav1.GetOptions{})
		return err != nil
	})
	for _, test := range []struct {
		name, token string
		server      securityv1alpha1.IstioCertificateServiceClient
		as          string // ImpersonatedIdentity
		code        codes.Code
		text        string
	}{
		{"a projected token", good, strict, "", codes.OK, ""},
		{"a mounted token where it is accepted", mint(t, c, shop, "cart", "", cart), mounted, "", codes.OK, ""},
		{"a projected token there", good, mounted, "", codes.OK, ""},
		{"a mounted token", mint(t, c, shop, "cart", "", cart), strict, "", codes.Unauthenticated, `not "istio-ca": mount a projected token of audience istio-ca`},
		{"another audience", mint(t, c, shop, "cart", "vault", cart), strict, "", codes.Unauthenticated, `it is for audience "vault", not "istio-ca"`},
		{"another audience where mounted ones are accepted", mint(t, c, shop, "cart", "vault", cart), mounted, "", codes.Unauthenticated, `it is not for audience "istio-ca", and the API server refuses it`},
		{"a machine's, bound to no pod", mint(t, c, shop, "cart", token.MachineAudience, nil), strict, "", codes.OK, ""},
		{"a machine's, bound to a pod", mint(t, c, shop, "cart", token.MachineAudience, cart), strict, "", codes.Unauthenticated, "it is bound to a pod"},
		{"bound to no pod", mint(t, c, shop, "cart", "istio-ca", nil), strict, "", codes.Unauthenticated, "it is bound to no pod"},
		{"another namespace's identity", good, strict, "spiffe://cluster.local/ns/" + system + "/sa/other", codes.PermissionDenied, id.String() + " asks for the identity of another workload"},
		{"a pod that is gone", left, strict, "", codes.Unauthenticated, "the API server refuses it"},
		{"expired", expired(t, good), strict, "", codes.Unauthenticated, "it expired 1m"},
		{"forged", good[:len(good)-8] + "AAAAAAAA", strict, "", codes.Unauthenticated, "the API server refuses it"},
		{"no token", "secret", strict, "", codes.Unauthenticated, "three parts"},
	} {
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		// What the request asks for by its names does not matter (Istio: CSR SANs are ignored).
		csr, err := identity.NewRequest(key, identity.ID{TrustDomain: "cluster.local", Namespace: system, ServiceAccount: other.Spec.ServiceAccountName})
		if err != nil {
			t.Fatal(err)
		}
		r := &securityv1alpha1.IstioCertificateRequest{Csr: string(csr)}
		if test.as != "" {
			r.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(test.as)}}
		}
		answer, err := test.server.CreateCertificate(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+test.token), r)
		if s := status.Convert(err); s.Code() != test.code || !strings.Contains(s.Message(), test.text) {
			t.Errorf("%s: %v, want %s with %q", test.name, err, test.code, test.text)
		} else if err != nil {
			t.Logf("%s: %s", test.name, s.Message())
			continue
		}
		if err != nil {
			continue
		}
		certs, err := identity.ParseCertificates([]byte(answer.CertChain[0]))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := identity.FromCertificate(certs[0]); err != nil || got != id {
			t.Errorf("%s: certified %v, %v", test.name, got, err)
		}
	}
}

type signsNothing struct{}

func (signsNothing) Sign(context.Context, identity.Request) ([]byte, error) { return nil, nil }

func bundle(s ca.Source) *identity.Bundle {
	a, _ := s.Watch()
	return a.Bundle()
}

// Replicas that start at once have one root; an authority that is plugged in is taken over by
// all; the roots are in every namespace, whatever is done to them.
func TestRoots(t *testing.T) {
	k := cluster.Connect(t)
	c := k.Client
	system := k.NewNamespace()
	authorities := make([]*cakube.Authority, 4)
	var wg sync.WaitGroup
	for i := range authorities {
		wg.Go(func() {
			a, err := open(t.Context(), c, system)
			if err != nil {
				t.Error(err)
				return
			}
			authorities[i] = a
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, a := range authorities {
		if rootOf(a) != rootOf(authorities[0]) {
			t.Fatal("two roots")
		}
		background(t, a.Run)
	}
	p, err := cakube.NewPublisher(cakube.PublisherOptions{Client: c, Authority: authorities[0], Labels: map[string]string{"app.kubernetes.io/managed-by": "weir"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stop := background(t, p.Run)
	t.Cleanup(func() { // what was published in namespaces that are not ours
		stop()
		list, err := c.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		for _, ns := range list.Items {
			_ = c.CoreV1().ConfigMaps(ns.Name).Delete(context.Background(), cakube.RootConfigMap, metav1.DeleteOptions{})
		}
	})
	maps := c.CoreV1().ConfigMaps(system)
	published := func(ns string) string {
		m, err := c.CoreV1().ConfigMaps(ns).Get(t.Context(), cakube.RootConfigMap, metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return m.Data[cakube.RootKey]
	}
	right := func(ns string) func() bool { return func() bool { return published(ns) == rootOf(authorities[0]) } }
	k.Eventually("published", right(system))
	later := k.NewNamespace()
	k.Eventually("published in a new namespace", right(later))
	if published("kube-system") != "" {
		t.Error("published in kube-system")
	}
	if err := maps.Delete(t.Context(), cakube.RootConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	k.Eventually("made again", right(system))
	m, err := maps.Get(t.Context(), cakube.RootConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data[cakube.RootKey] = "theirs"
	if _, err := maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.Eventually("repaired", right(system))

	files, err := ca.NewSelfSigned("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	first := rootOf(authorities[0])
	files[cakube.RootKey] = append(files[cakube.RootKey], first...)
	s, err := c.CoreV1().Secrets(system).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: cakube.PluggedSecret}, Data: files}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range authorities {
		k.Eventually(fmt.Sprintf("plugged in at replica %d", i), func() bool { return rootOf(a) == string(files[cakube.RootKey]) })
	}
	k.Eventually("both roots published", right(later))
	s.Data["ca-cert.pem"] = []byte("broken")
	if _, err := c.CoreV1().Secrets(system).Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.Eventually("the broken edit is seen", func() bool { return strings.Contains(authorities[0].Problem(), "ca-cert.pem") })
	if rootOf(authorities[0]) != string(files[cakube.RootKey]) {
		t.Error("a broken edit took the authority out of force")
	}
}

// One leads; when it ends, the next one does within seconds.
func TestLeader(t *testing.T) {
	k := cluster.Connect(t)
	c := k.Client
	system := k.NewNamespace()
	var elections []*leader.Election
	var stops []func()
	for i := range 2 {
		e, err := leader.New(leader.Options{Leases: c.CoordinationV1(), Namespace: system, Name: "istio-leader", Identity: fmt.Sprint("istiod-", i), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		elections, stops = append(elections, e), append(stops, background(t, e.Run))
	}
	k.Eventually("one leads", func() bool { return elections[0].Leading() != elections[1].Leading() })
	was := 0
	if elections[1].Leading() {
		was = 1
	}
	began := time.Now()
	stops[was]()
	k.Eventually("the other one leads", elections[1-was].Leading)
	if d := time.Since(began); d > 6*time.Second {
		t.Errorf("without a leader for %s", d)
	}
}
