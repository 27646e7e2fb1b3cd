package kube

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// kubeconfig writes a file for a user of a cluster and returns its name.
func kubeconfig(t *testing.T, server string, ca []byte, token string) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	if ca != nil { // a name that every API server has, wherever its address leads
		c.Clusters["c"].TLSServerName = "kubernetes.default.svc"
	}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["nobody"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "nobody"
	name := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// fails runs weir, which must fail within a time, and say all of what.
func fails(t *testing.T, within time.Duration, args []string, what ...string) {
	t.Helper()
	began := time.Now()
	out, errs, err := weir(t, args...)
	took := time.Since(began)
	if err == nil {
		t.Errorf("weir %s succeeded: %s", strings.Join(args, " "), out)
	}
	for _, w := range what {
		if !strings.Contains(errs, w) {
			t.Errorf("nothing says %q:\n%s", w, errs)
		}
	}
	if took > within {
		t.Errorf("it took %v to fail, want %v at most", took.Round(time.Second), within)
	}
}

// Each way an installation can fail ends soon, in a sentence that says what to do.
func TestInstallFails(t *testing.T) {
	c := cluster.Connect(t)
	if err := rest.LoadTLSFiles(c.Config); err != nil {
		t.Fatal(err)
	}

	t.Run("no permission", func(t *testing.T) {
		seconds := int64(600)
		r, err := c.Client.CoreV1().ServiceAccounts(c.Namespace).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		fails(t, 30*time.Second, []string{"install", "--kubeconfig", kubeconfig(t, c.Config.Host, c.Config.CAData, r.Status.Token)},
			"context nobody may not create", "clusterroles.rbac.authorization.k8s.io", "use another --context, or ask for these rights")
	})

	t.Run("an old Kubernetes", func(t *testing.T) {
		fails(t, 30*time.Second, []string{"install", "--kubeconfig", kubeconfig(t, older(t, c.Config), nil, "")},
			"the cluster is Kubernetes v1.28.9; Weir needs 1.29.0 or newer", "upgrade the cluster")
	})

	t.Run("nobody there", func(t *testing.T) {
		fails(t, 30*time.Second, []string{"install", "--kubeconfig", kubeconfig(t, "https://127.0.0.1:1", nil, "")}, "nobody listens at https://127.0.0.1:1", "is the cluster running?")
	})

	t.Run("another one's webhook", func(t *testing.T) {
		bare(t, c)
		t.Cleanup(func() { must(t, "uninstall", "--yes") })
		hook := strings.ReplaceAll(blocking, "NAME", c.Namespace)
		c.Apply(hook)
		defer c.Delete(hook)
		fails(t, time.Minute, ofImages(t, "install"), "failed calling webhook", "a webhook of the cluster does not answer: mend or remove it")
	})

	t.Run("an image that is not there", func(t *testing.T) {
		bare(t, c)
		t.Cleanup(func() { must(t, "uninstall", "--yes") })
		fails(t, 30*time.Second, []string{"install", "--hub", "registry.invalid/weir", "--tag", "none"},
			"image registry.invalid/weir/weir-control:none cannot be pulled", "load it into the cluster's nodes, or name a registry that has it: --hub, --tag")
	})
}

// blocking is a webhook that nobody answers, for what we install only.
const blocking = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NAME}
webhooks:
- name: nobody.weir.test
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 1
  failurePolicy: Fail
  clientConfig: {url: "https://127.0.0.1:1/"}
  objectSelector: {matchLabels: {app.kubernetes.io/managed-by: weir}}
  rules: [{operations: [CREATE, UPDATE], apiGroups: [""], apiVersions: [v1], resources: [configmaps, services, serviceaccounts]}]
`

// older is the API server of a cluster, but for the version it says it has.
func older(t *testing.T, config *rest.Config) string {
	t.Helper()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: transport, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Header.Del("Authorization")
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"major":"1","minor":"28","gitVersion":"v1.28.9"}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// weir demo install leads to bookinfo's page in a namespace of one's choice, weir demo
// uninstall takes it away.
func TestDemo(t *testing.T) {
	c := cluster.Connect(t)
	install(t)
	url := strings.TrimSpace(must(t, "demo", "install", "--into", c.Namespace))
	if !strings.HasPrefix(url, "http://") {
		t.Skipf("the ingress gateway of this cluster cannot be reached from here: %s", url)
	}
	c.Until("the page at "+url, booting, func() string {
		status, body, err := page(t, url)
		if err != nil || status != http.StatusOK || !strings.Contains(body, "Reviews served by:") {
			return fmt.Sprintf("%d %v %.200s", status, err, body)
		}
		return ""
	})
	must(t, "demo", "uninstall")
	c.Until("nothing of the demo is left", booting, func() string {
		for _, o := range c.All() {
			if strings.Contains(o, c.Namespace+"/") && (strings.Contains(o, "productpage") || strings.Contains(o, "bookinfo")) {
				return o
			}
		}
		return ""
	})
}

// An installation whose API server cannot reach its webhooks is not whole, and weir verify
// says so; pods without a label are made all the same.
func TestWebhookUnreachable(t *testing.T) {
	c, _ := meshed(t)
	t.Cleanup(func() { install(t) })
	s, err := c.Client.CoreV1().Services("istio-system").Get(t.Context(), "istiod", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Spec.Ports {
		if s.Spec.Ports[i].Port == 443 {
			s.Spec.Ports[i].TargetPort.IntVal = 9 // as a firewall would
		}
	}
	if _, err := c.Client.CoreV1().Services("istio-system").Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Connections that the API server has open would go on to be used.
	if err := c.Client.CoreV1().Pods("istio-system").DeleteCollection(t.Context(), deleteNow, metav1.ListOptions{LabelSelector: "app=istiod"}); err != nil {
		t.Fatal(err)
	}
	c.Until("the control plane is back", booting, func() string {
		d, err := c.Client.AppsV1().Deployments("istio-system").Get(t.Context(), "istiod", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if !cluster.RolledOut(d) {
			return fmt.Sprintf("%d of %d pods", d.Status.AvailableReplicas, *d.Spec.Replicas)
		}
		return ""
	})
	c.Until("the webhook is unreachable", cluster.Patience, func() string {
		if err := c.TryApply(withImages(t, caller)); err == nil {
			c.Delete(withImages(t, caller))
			return "a pod was made in a meshed namespace"
		} else if !strings.Contains(err.Error(), "sidecar-injector.istio.io") {
			return err.Error()
		}
		return ""
	})
	meshed := c.Namespace
	c.Namespace = c.NewNamespace()
	c.Apply(withImages(t, caller))
	c.Ready("app=caller", booting)
	c.Namespace = meshed
	fails(t, time.Minute, ofImages(t, "verify"), "mutatingwebhookconfiguration/istio-sidecar-injector: the API server cannot ask the control plane", "let it reach port 15017")
}

// An installation may be in another namespace than Istio's, beside nothing else: everything
// finds it there, and it leaves nothing.
func TestAnotherNamespace(t *testing.T) {
	const elsewhere = "weir-e2e-mesh"
	c := cluster.Connect(t)
	bare(t, c)
	before := c.All()
	t.Cleanup(func() { must(t, "uninstall", "--yes", "-n", elsewhere) })
	must(t, ofImages(t, "install", "-n", elsewhere)...)
	mine, shop := c.Namespace, c.NewNamespace("istio-injection=enabled")
	c.Namespace = shop
	c.Apply(withImages(t, web+"---"+caller))
	c.Ready("app", booting)
	c.Until("pods call each other with their identities", cluster.Patience, func() string {
		if r, err := echo(c, "caller", "http://web/"); err != nil || !strings.HasSuffix(r.Identity, "/sa/default") {
			return fmt.Sprintf("%+v, %v", r, err)
		}
		return ""
	})
	must(t, "verify", "-n", elsewhere)
	if out := must(t, "proxy-status", "--istioNamespace", elsewhere); !strings.Contains(out, "caller") {
		t.Errorf("proxy-status does not know the proxies: %s", out)
	}
	c.EndNamespace(shop)
	c.Namespace = mine
	c.AwaitNamespaces(elsewhere)
	must(t, "uninstall", "--yes", "-n", elsewhere)
	c.Until("nothing is left", cluster.Patience, func() string { return cmp.Diff(before, c.All()) })
}
