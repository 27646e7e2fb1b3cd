package kube

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/kube/cluster"
	"github.com/weirmesh/weir/test/link"
)

// A control plane on another machine serves the cluster, with no more rights than one in it: pods get
// their proxies, proxies their certificates and configuration, and objects are judged.
func TestOutside(t *testing.T) {
	c := cluster.Connect(t)
	if err := rest.LoadTLSFiles(c.Config); err != nil {
		t.Fatal(err)
	}
	bare(t, c)
	address := here(c)
	t.Cleanup(func() { must(t, "uninstall", "--yes") })
	installed := make(chan error, 1) // which waits for its gateway, and that for us
	go func() {
		_, errs, err := weir(t, ofImages(t, "install", "--set", "global.remotePilotAddress="+address)...)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, errs)
		}
		installed <- err
	}()
	var token string
	c.Until("there is an account for it", booting, func() string {
		hours := int64(3600)
		r, err := c.Client.CoreV1().ServiceAccounts("istio-system").CreateToken(t.Context(), "istiod", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
		if err != nil {
			return err.Error()
		}
		token = r.Status.Token
		return ""
	})
	const api = "127.83.0.1:15014"
	way := relayed(c)
	cmd := exec.CommandContext(t.Context(), "../../bin/weir-control", "--kubeconfig", kubeconfig(t, way.server, c.Config.CAData, token), "--state", t.TempDir(),
		"--grpc", net.JoinHostPort(address, "15012"), "--webhook", net.JoinHostPort(address, "15017"), "--http", api)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := <-installed; err != nil {
		t.Fatal(err)
	}
	must(t, ofImages(t, "verify", "--set", "global.remotePilotAddress="+address)...)
	c.Until("validation fails closed", cluster.Patience, func() string {
		v, err := c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(t.Context(), "istio-validator-istio-system", metav1.GetOptions{})
		if err != nil || *v.Webhooks[0].FailurePolicy != admissionregistrationv1.Fail {
			return fmt.Sprint(err)
		}
		return ""
	})
	c.Namespace = c.NewNamespace("istio-injection=enabled")
	c.Until("pods get their proxies", booting, func() string {
		if err := c.TryApply(withImages(t, web+"---"+caller)); err != nil {
			return err.Error()
		}
		return ""
	})
	c.Apply(strict)
	c.Ready("app", booting)
	reachesByMutualTLS(c)
	c.Until("objects are judged", cluster.Patience, func() string {
		if err := c.TryApply("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: wrong}\nspec: {hosts: [web]}\n"); err == nil || !strings.Contains(err.Error(), "weir:") {
			return fmt.Sprintf("an object without routes: %v", err)
		}
		return ""
	})

	log := calling(t, c, "load", true, 50, "http://web/")
	for _, how := range []struct {
		name      string
		cut, mend func()
	}{
		{"the API server refuses it", way.refuse, way.mend},
		{"the API server closes nothing and says nothing", way.link.Partition, way.mend},
	} {
		t.Run(how.name, func(t *testing.T) { away(c.In(t), api, how.cut, how.mend) })
	}
	stopped(t, c, "load", log)
}

// away is a time in which the control plane does not reach the API server: it says so, and since when; calls go on, and what was
// changed meanwhile is in force afterwards.
func away(c *cluster.Cluster, api string, cut, mend func()) {
	about := func(s *apiv1.Status) (found *apiv1.Finding) {
		for i, f := range s.Findings {
			if f.Code == "WEIR0120" {
				found = &s.Findings[i]
			}
		}
		return found
	}
	well := func(s *apiv1.Status) bool { return about(s) == nil }
	saysWithin(c, "the API server is not away", cluster.Patience, well, "status", "--api", api)
	began := time.Now().Truncate(time.Second)
	cut()
	saysWithin(c, "the API server is away, and since when", 2*time.Minute, func(s *apiv1.Status) bool {
		f := about(s)
		if f == nil {
			return false
		}
		_, after, _ := strings.Cut(f.Message, "the API server: it does not answer since ")
		when, _, _ := strings.Cut(after, ": ")
		since, err := time.Parse(time.RFC3339, when)
		return err == nil && !since.Before(began) && !since.After(time.Now())
	}, "status", "--api", api)
	c.T.Logf("it is said %v after it happened", time.Since(began).Round(time.Second))
	text, _, _ := weir(c.T, "status", "--api", api)
	if !strings.Contains(text, "WEIR0120") || !strings.Contains(text, "the API server: it does not answer since ") {
		c.T.Errorf("people are not told:\n%s", text)
	}
	if why := denied(c, "200"); why != "" {
		c.T.Error(why)
	}
	c.Apply(denyAway)
	mend()
	saysWithin(c, "the API server is back", 2*time.Minute, well, "status", "--api", api)
	c.Until("what was changed meanwhile is in force", cluster.Patience, func() string { return denied(c, "403") })
	c.Delete(denyAway)
	c.Until("so is what was changed since", cluster.Patience, func() string { return denied(c, "200") })
}

const denyAway = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: away}
spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {paths: [/away]}}]}]}
`

// denied says what is wrong if a call that denyAway is about ends otherwise.
func denied(c *cluster.Cluster, want string) string {
	out, err := c.Exec("caller", "app", "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "http://web/away")
	if err != nil || out != want {
		return fmt.Sprintf("%s, want %s: %v", out, want, err)
	}
	return ""
}

// relay is a way to the API server.
type relay struct {
	server string // its URL
	link   *link.Link
	closed atomic.Bool
}

// refuse ends its connections, and those that come.
func (r *relay) refuse() { r.closed.Store(true); r.link.Break() }

// mend lets all through again.
func (r *relay) mend() { r.closed.Store(false); r.link.Heal() }

func relayed(c *cluster.Cluster) *relay {
	c.T.Helper()
	server, err := url.Parse(c.Config.Host)
	if err != nil {
		c.T.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(c.T.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() { _ = l.Close() })
	r := &relay{server: "https://" + l.Addr().String(), link: link.New()}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				if r.closed.Load() {
					return
				}
				far, err := r.link.Dial(c.T.Context(), server.Host)
				if err != nil {
					return
				}
				defer far.Close()
				go func() { defer near.Close(); _, _ = io.Copy(near, far) }()
				_, _ = io.Copy(far, near)
			}()
		}
	}()
	return r
}
