package main

import (
	"context"
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/ca"
	cakube "github.com/weirmesh/weir/ca/kube"
	caserver "github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/control/kubestatus"
	"github.com/weirmesh/weir/control/lastgood"
	"github.com/weirmesh/weir/internal/kubekeep"
	"github.com/weirmesh/weir/internal/leader"
	"github.com/weirmesh/weir/internal/runner"
)

// openTimeout is for reading two Secrets and perhaps making one.
const openTimeout = 30 * time.Second

// ownerLabel says which release made an object, so that the same one removes it.
const ownerLabel = "install.weir.dev/owner"

// callersSecret says who called in plaintext, for all replicas of all revisions. Nothing of it is secret; but who writes it has `weir mtls
// enforce` refuse calls that nobody was told of.
const callersSecret = "istio-plaintext-callers"

// suffix is what stands behind names of which each revision has one.
func (k *cluster) suffix() string {
	if k.revision == "" {
		return ""
	}
	return "-" + k.revision
}

// labels are what everything carries that this control plane makes: the release is that of
// the mesh's ConfigMap, which came with it.
func (k *cluster) labels(ctx context.Context, namespace string) map[string]string {
	labels := map[string]string{"app.kubernetes.io/managed-by": "weir", "app.kubernetes.io/part-of": "istio"}
	if c, err := k.client.CoreV1().ConfigMaps(namespace).Get(ctx, istio.MeshConfigName+k.suffix(), metav1.GetOptions{}); err == nil && c.Labels[ownerLabel] != "" {
		labels[ownerLabel] = c.Labels[ownerLabel]
	}
	return labels
}

// certificates says in o where certificates come from, and who may have them.
func (k *cluster) certificates(ctx context.Context, o *control.Options) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var err error
	k.made = k.labels(ctx, o.Namespace)
	k.authority, err = cakube.Open(ctx, cakube.Options{Client: k.client, Namespace: o.Namespace, TrustDomain: o.TrustDomain, CA: ca.Options{DefaultTTL: o.CertTTL, MaxTTL: o.MaxCertTTL}, Labels: k.made, Log: o.Log})
	if err != nil {
		return err
	}
	reviewer, err := cakube.NewReviewer(cakube.ReviewerOptions{Reviews: k.client.AuthenticationV1(), TrustDomain: o.TrustDomain, Mounted: k.mounted, Pods: k.runs, Uses: cakube.Uses(k.client.CoreV1().Secrets(o.Namespace), k.made), Log: o.Log})
	if err != nil {
		return err
	}
	accounts, err := cakube.NewAccounts(cakube.AccountsOptions{Accounts: k.client.CoreV1(), Log: o.Log})
	if err != nil {
		return err
	}
	o.Renew = accounts.Renew
	o.Authority, o.Authenticators, o.ServerNames = k.authority, []caserver.Authenticator{reviewer}, cakube.ServerNames(o.Namespace, k.revision)
	o.Callers = kubekeep.Secret(k.client.CoreV1().Secrets(o.Namespace), callersSecret, "callers.json", k.made)
	if k.signer != "" {
		o.ExternalCA = &cakube.Signer{Requests: k.client.CertificatesV1().CertificateSigningRequests(), Name: k.signer, Approve: k.approve, Log: o.Log}
	}
	k.options = o
	return nil
}

// lastGood is where new replicas find last good versions.
func (k *cluster) lastGood() lastgood.Options {
	return lastgood.Options{ConfigMaps: k.client.CoreV1().ConfigMaps(k.options.Namespace), Name: lastgood.Name + k.suffix(), Labels: k.made, Log: k.options.Log}
}

// tokenKeys is where they find keys of token issuers.
func (k *cluster) tokenKeys() lastgood.Options {
	o := k.lastGood()
	o.Name = lastgood.KeysName + k.suffix()
	return o
}

// lead adds what one replica does for all.
func (k *cluster) lead(g *runner.Group, p *control.Plane) error {
	o := k.options
	// What there is one of in the mesh, and what each revision has of its own.
	election, err := leader.New(leader.Options{Leases: k.client.CoordinationV1(), Namespace: o.Namespace, Name: "istio-leader", Identity: o.Name, Labels: k.made, Log: o.Log})
	own, err3 := leader.New(leader.Options{Leases: k.client.CoordinationV1(), Namespace: o.Namespace, Name: "istio-revision-leader" + k.suffix(), Identity: o.Name, Labels: k.made, Log: o.Log})
	roots, err1 := cakube.NewPublisher(cakube.PublisherOptions{Client: k.client, Authority: k.authority, Labels: k.made, Log: o.Log})
	status, err2 := kubestatus.New(kubestatus.Options{Client: k.objects, From: p, Log: o.Log})
	if err := errors.Join(err, err1, err2, err3); err != nil {
		return err
	}
	election.While("certificate authority", k.authority.Keep)
	election.While("roots", roots.Run)
	election.While("status", status.Run)
	own.While("last good versions", lastgood.New(k.lastGood(), p).Run)
	own.While("keys of tokens", lastgood.NewKeysKeeper(k.tokenKeys(), p).Run)
	k.elections = []*leader.Election{election, own}
	if err := k.webhooks(g, p, own); err != nil {
		return err
	}
	g.Go("certificate authority", k.authority.Run)
	g.Go("leader election", election.Run)
	g.Go("leader election of the revision", own.Run)
	return nil
}
