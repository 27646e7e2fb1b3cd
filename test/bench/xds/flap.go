package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// flapping is a service of two workloads, one of which comes and goes, that is visible in
// its namespace only, or to everybody.
const flapping = `apiVersion: v1
kind: Service
metadata:
  name: flap
  namespace: ns-000
  annotations: {networking.istio.io/exportTo: "%s"}
spec:
  clusterIP: 172.31.253.1
  selector: {app: flap}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: flap-0, namespace: ns-000, labels: {app: flap}}
spec: {containers: [{name: app, image: app}]}
status: {podIP: 10.252.0.1, phase: Running, conditions: [{type: Ready, status: "True"}]}
`

const flapper = `apiVersion: v1
kind: Pod
metadata: {name: flap-1, namespace: ns-000, labels: {app: flap}}
spec: {containers: [{name: app, image: app}]}
status: {podIP: 10.252.0.2, phase: Running, conditions: [{type: Ready, status: "%s"}]}
`

func (b *bench) flaps(ctx context.Context) error {
	config := filepath.Join(b.o.mesh, "config")
	write := func(name, text string) error {
		beside := filepath.Join(b.o.mesh, "."+name)
		if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
			return err
		}
		return os.Rename(beside, filepath.Join(config, name))
	}
	defer os.Remove(filepath.Join(config, "flap.yaml"))
	defer os.Remove(filepath.Join(config, "flapper.yaml"))
	idle := func() float64 {
		b.quiet(ctx)
		was, began := usageOf(b.o.pid), time.Now()
		select {
		case <-ctx.Done():
		case <-time.After(b.o.flap / 2):
		}
		return (usageOf(b.o.pid).cpu - was.cpu).Seconds() / time.Since(began).Seconds()
	}()
	for _, to := range []string{".", "*"} {
		if err := write("flap.yaml", fmt.Sprintf(flapping, to)); err != nil {
			return err
		}
		if err := write("flapper.yaml", fmt.Sprintf(flapper, "True")); err != nil {
			return err
		}
		time.Sleep(time.Second) // the file is looked at
		b.quiet(ctx)
		bytes := make([]int64, len(b.proxies))
		for i, c := range b.proxies {
			bytes[i] = c.wire.Load()
		}
		was, began, flaps := usageOf(b.o.pid), time.Now(), 0
		for tick := time.NewTicker(time.Second); time.Since(began) < b.o.flap; flaps++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := write("flapper.yaml", fmt.Sprintf(flapper, []string{"False", "True"}[flaps%2])); err != nil {
				return err
			}
		}
		b.quiet(ctx)
		now := usageOf(b.o.pid)
		var interested, others, some, none int64
		for i, c := range b.proxies {
			if n := c.wire.Load() - bytes[i]; c.concerned && (to == "*" || c.namespace == "ns-000") {
				interested, some = interested+1, some+n
			} else {
				others, none = others+1, none+n
			}
		}
		fmt.Printf("flapping once a second for %v, exportTo %q: %.4f of a core (%.4f idle); %d interested got %.0f bytes a flap each, %d others got %d bytes in all\n", b.o.flap, to,
			(now.cpu-was.cpu).Seconds()/time.Since(began).Seconds(), idle, interested, float64(some)/float64(max(1, interested))/float64(flaps), others, none)
	}
	return nil
}
