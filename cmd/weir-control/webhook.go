package main

import (
	"context"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/inject/webhook"
	"github.com/weirmesh/weir/internal/leader"
	"github.com/weirmesh/weir/internal/runner"
	"github.com/weirmesh/weir/mesh"
)

// webhooks serves injection and validation to the API server, and keeps the API server's
// side of them right.
func (k *cluster) webhooks(g *runner.Group, p *control.Plane, election *leader.Election) error {
	o := k.options
	listeners, err := listen("tcp", k.webhook)
	if err != nil || len(listeners) == 0 {
		return err
	}
	k.injector = webhook.NewWatcher(k.client, inject.Source{Namespace: o.Namespace, Revision: k.revision, TrustDomain: o.TrustDomain}, version, o.Log)
	s := webhook.New(webhook.Options{Settings: k.injector.Settings, Labels: k.injector.Labels, Validate: judging(k.asked.Place, p.Judge), Certificate: p.Certificate, Metrics: p.Metrics(), Log: o.Log})
	g.Go("injector's settings", k.injector.Run)
	for _, l := range listeners {
		g.Go("webhooks", func(ctx context.Context) error { return s.Run(ctx, l) })
	}
	at := ""
	if !k.kube {
		at = listeners[0].Addr().String()
	}
	served := webhook.Reaching("https://istiod"+k.suffix()+"."+o.Namespace+".svc/ready", at, func() []byte { pem, _ := p.Root(); return pem })
	keeper := &webhook.Keeper{Client: k.client, Namespace: o.Namespace, Revision: k.revision, Root: p.Root, Served: served, Log: o.Log}
	election.While("webhook configurations", keeper.Run)
	k.waker = &webhook.Waker{Client: k.client, Object: mesh.Ref{Kind: "Service", Namespace: o.Namespace, Name: "istiod" + k.suffix()}, Served: served, Log: o.Log}
	g.Go("who waits for injection", k.waker.Run)
	return nil
}

// judging judges objects that are not stored yet, if they are this control plane's or, as place has noted then, nobody's.
func judging(place func(*config.Object) bool, judge func(*config.Object) []config.Finding) func(*config.Object) []config.Finding {
	return func(o *config.Object) []config.Finding {
		if elsewhere := place(o); elsewhere {
			return nil // its own control plane is asked, too
		}
		return judge(o)
	}
}
