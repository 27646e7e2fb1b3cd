package kube

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/weirmesh/weir/test/kube/cluster"
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
	cmd := exec.CommandContext(t.Context(), "../../bin/weir-control", "--kubeconfig", kubeconfig(t, c.Config.Host, c.Config.CAData, token), "--state", t.TempDir(),
		"--grpc", net.JoinHostPort(address, "15012"), "--webhook", net.JoinHostPort(address, "15017"), "--http", "127.0.0.1:0")
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
}
