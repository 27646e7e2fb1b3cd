package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/ca"
	cakube "github.com/weirmesh/weir/ca/kube"
	caserver "github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/kubewatch"
	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/mesh"
	registrykube "github.com/weirmesh/weir/registry/kube"
	"github.com/weirmesh/weir/xds/resource"
)

// nothingAsked is where no operator asks for anything.
type nothingAsked struct{}

func (nothingAsked) Run(ctx context.Context, publish func([]config.Unit)) error {
	publish(nil)
	<-ctx.Done()
	return nil
}

// newcomer has no certificate yet.
type newcomer struct{ roots *identity.Bundle }

func (n newcomer) Certificate() *tls.Certificate { return nil }
func (n newcomer) Bundle() *identity.Bundle      { return n.roots }

// clusterOfPods is a control plane of a cluster, over real sockets: its pods have addresses of loopback, and a token says whose it is.
type clusterOfPods struct {
	t          *testing.T
	api        *fake.Clientset
	roots      *identity.Bundle
	grpc, http string
	log        *locked.Buffer
}

func newClusterOfPods(t *testing.T, pods ...*corev1.Pod) *clusterOfPods {
	t.Helper()
	c := &clusterOfPods{t: t, api: fake.NewClientset(), log: &locked.Buffer{}}
	// Tokens are NAMESPACE/POD/UID/ACCOUNT, in the place of a signature.
	c.api.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		r := a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		part := strings.Split(r.Spec.Token[strings.LastIndexByte(r.Spec.Token, '.')+1:], "/")
		r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: r.Spec.Audiences, User: authenticationv1.UserInfo{Username: "system:serviceaccount:" + part[0] + ":" + part[3],
			Extra: map[string]authenticationv1.ExtraValue{"authentication.kubernetes.io/pod-name": {part[1]}, "authentication.kubernetes.io/pod-uid": {part[2]}}}}
		return true, r, nil
	})
	for _, p := range pods {
		if err := c.api.Tracker().Add(p); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(c.log, nil))
	server := kubewatch.New(log)
	server.Plain = true
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	runs := registrykube.New(registrykube.Options{Server: server, Client: c.api, Heads: metadatafake.NewSimpleMetadataClient(scheme), DomainSuffix: "cluster.local", Namespace: "istio-system", Log: log})
	reviewer, err := cakube.NewReviewer(cakube.ReviewerOptions{Reviews: c.api.AuthenticationV1(), TrustDomain: "cluster.local", Pods: runs, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	authority, err := ca.OpenSelfSigned(filepath.Join(state, "ca"), "cluster.local", ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.roots = authority.Bundle()
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	c.grpc, c.http = listeners[0].Addr().String(), listeners[1].Addr().String()
	p, err := control.New(control.Options{State: state, GRPC: listeners[:1], HTTP: listeners[1:], Log: log, Authenticators: []caserver.Authenticator{reviewer},
		Settings: mesh.Settings{ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system"},
		Cluster:  &control.Cluster{Objects: nothingAsked{}, Facts: runs, Why: runs.Why}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for _, p := range pods {
		eventually(t, func() bool { return runs.Why(p.Namespace, p.Name) == "" }, func() string { return "the control plane does not know pod " + p.Name })
	}
	return c
}

// dial connects from an address as the pod there.
func (c *clusterOfPods) dial(from string) *grpc.ClientConn {
	c.t.Helper()
	istiod, err := identity.New("cluster.local", "istio-system", "istiod")
	if err != nil {
		c.t.Fatal(err)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := grpc.NewClient("passthrough:///"+c.grpc, grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return d.DialContext(ctx, "tcp", to) }),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(newcomer{c.roots}, identity.OneOf{istiod}))))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// A pod's token, stolen and shown by another pod, gets neither a certificate nor configuration; the log names both pods, the thief hears of
// none but the token's, and metrics count it. The pod itself, and who comes from an address that is no pod's, is served.
func TestAPodsTokenIsForThatPod(t *testing.T) {
	t.Parallel()
	pod := func(namespace, name, uid, account, ip string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}, Spec: corev1.PodSpec{ServiceAccountName: account},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}}}
	}
	c := newClusterOfPods(t, pod("shop", "cart-0", "u-1", "cart", "127.0.0.11"), pod("zoo", "thief-0", "u-2", "thief", "127.0.0.12"))
	cart, err := identity.New("cluster.local", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewRequest(key, cart)
	if err != nil {
		t.Fatal(err)
	}
	stolen := "Bearer eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"aud":["istio-ca"],"exp":%d}`, time.Now().Add(time.Hour).Unix())) + ".shop/cart-0/u-1/cart"
	shown := metadata.AppendToOutgoingContext(t.Context(), "authorization", stolen)

	certificate := func(conn *grpc.ClientConn) error {
		_, err := securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(shown, &securityv1alpha1.IstioCertificateRequest{Csr: string(csr)})
		return err
	}
	configuration := func(conn *grpc.ClientConn) error {
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(shown)
		if err != nil {
			return err
		}
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.ClusterType, Node: &corev3.Node{Id: "sidecar~127.0.0.11~cart-0.shop~shop.svc.cluster.local"}}); err != nil && err != io.EOF {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	for _, x := range []struct{ who, from string }{{"the pod itself", "127.0.0.11"}, {"a node", "127.0.0.1"}} {
		conn := c.dial(x.from)
		for what, ask := range map[string]func(*grpc.ClientConn) error{"a certificate": certificate, "configuration": configuration} {
			if err := ask(conn); err != nil {
				t.Errorf("%s asks for %s: %v", x.who, what, err)
			}
		}
	}
	thief := c.dial("127.0.0.12")
	for what, ask := range map[string]func(*grpc.ClientConn) error{"certificate request refused": certificate, "token for configuration refused": configuration} {
		s := status.Convert(ask(thief))
		if s.Code() != codes.Unauthenticated || !strings.Contains(s.Message(), "bound to pod shop/cart-0, and was shown from the address of another") || strings.Contains(s.Message(), "thief") {
			t.Errorf("%s: %v", what, s)
		}
		line := fmt.Sprintf(`msg=%q id=spiffe://cluster.local/ns/shop/sa/cart pod=shop/cart-0 peer=127.0.0.12 at=zoo/thief-0`, what)
		if log := c.log.String(); !strings.Contains(log, line) || strings.Contains(log, stolen) {
			t.Errorf("the log lacks %q, or has the token:\n%s", line, log)
		}
	}
	answer, err := http.Get("http://" + c.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "mesh_ca_tokens_replayed_total 2\n") {
		t.Errorf("metrics do not count two replays:\n%s", text)
	}
}
