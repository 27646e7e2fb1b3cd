package store_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

var update = flag.Bool("update", false, "rewrite the expected sections: only commit the changes if you understand what caused them and if they are desired")

func settings() mesh.Settings {
	return mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}
}

func newStore(t testing.TB, state string) *store.Store {
	t.Helper()
	s, err := store.New(store.Options{Settings: settings(), State: state, Assume: []*mesh.Workload{analyze.LocalGateway()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each case is a sentence of intention, YAML files, and what becomes of them: all
// findings, and of the plan what "lowered" asks for (its first word is a comma list of
// kinds).
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	// Findings that no document makes: other tests of this package and of
	// config/source/file and registry do.
	seen := map[config.Code]bool{config.Unreadable: true, config.LimitExceeded: true, config.LastGoodServed: true, config.AddressesExhausted: true, config.AsksForNobody: true}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(ar.Comment)) == "" {
				t.Fatal("the case does not say what the user intends")
			}
			var units []config.Unit
			for _, f := range ar.Files {
				if ext := filepath.Ext(f.Name); ext == ".yaml" || ext == ".json" {
					units = append(units, file.Parse(f.Name, f.Data, "default"))
				}
			}
			s := newStore(t, "")
			s.Step(units...)
			u := s.Analyze()
			for _, f := range u.Findings {
				seen[f.Code] = true
				if f.Severity == config.Error && f.Hint == "" {
					t.Errorf("no remedy: %v", f)
				}
			}
			changed := false
			for i := range ar.Files {
				f := &ar.Files[i]
				var got string
				name, arg, _ := strings.Cut(f.Name, ": ")
				switch name {
				case "findings":
					got = findings(u.Findings)
				case "lowered":
					got = dump(u.Snapshot, strings.Split(arg, ","))
				default:
					continue
				}
				if got == string(f.Data) {
					continue
				}
				if *update {
					f.Data, changed = []byte(got), true
					continue
				}
				t.Errorf("%s: got\n%s\nwant\n%s", f.Name, got, f.Data)
			}
			if changed {
				if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	injector := []config.Code{"IST0139", "IST0147", "IST0158"} // about webhooks (inject) and Pods of a cluster (config/kube, registry/kube)
	for _, c := range config.Codes() {
		if c.Code > config.AddressesExhausted {
			break // those after it are made elsewhere (control, local)
		}
		if slices.Contains(injector, c.Code) {
			continue
		}
		if !seen[c.Code] {
			t.Errorf("no case shows %s %s", c.Code, c.Title)
		}
	}
}

func findings(fs []config.Finding) string {
	var b strings.Builder
	for _, f := range fs {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// dump prints maps of a snapshot: what is not zero, a field a line at the first level.
func dump(s *mesh.Snapshot, kinds []string) string {
	var b bytes.Buffer
	for _, kind := range kinds {
		switch kind {
		case "virtualservices":
			for k, v := range s.VirtualServices.All() {
				object(&b, "VirtualService", k, v)
			}
		case "destinationrules":
			for k, v := range s.DestinationRules.All() {
				object(&b, "DestinationRule", k, v)
			}
		case "gateways":
			for k, v := range s.Gateways.All() {
				object(&b, "Gateway", k, v)
			}
		case "peerauths":
			for k, v := range s.PeerAuths.All() {
				object(&b, "PeerAuthentication", k, v)
			}
		case "authorizations":
			for k, v := range s.Authorizations.All() {
				object(&b, "AuthorizationPolicy of "+v.Ref.Kind+fmt.Sprintf(" line %d:", v.Ref.Line), k, v)
			}
		case "requestauths":
			for k, v := range s.RequestAuths.All() {
				object(&b, "RequestAuthentication of "+v.Ref.Kind+fmt.Sprintf(" line %d:", v.Ref.Line), k, v)
			}
		case "sidecars":
			for k, v := range s.Sidecars.All() {
				object(&b, "Sidecar", k, v)
			}
		case "services":
			for k, v := range s.Services.All() {
				object(&b, "Service", k, v)
			}
		case "workloads":
			for k, v := range s.Workloads.All() {
				object(&b, "Workload", k, v)
			}
		case "endpoints":
			for k, v := range s.Endpoints.All() {
				fmt.Fprintf(&b, "Endpoints %s\n", k)
				var ports []int
				for p := range v.Ports {
					ports = append(ports, int(p))
				}
				sort.Ints(ports)
				for _, p := range ports {
					for _, e := range v.Ports[uint16(p)] {
						w := ""
						if e.Workload != nil {
							w = " workload " + string(e.Workload.Key())
						}
						e.Workload = nil
						fmt.Fprintf(&b, "  %d:%s %s\n", p, w, value(reflect.ValueOf(e)))
					}
				}
			}
		default:
			fmt.Fprintf(&b, "no projection called %q\n", kind)
		}
	}
	return b.String()
}

func object(b *bytes.Buffer, kind string, k mesh.Key, v any) {
	fmt.Fprintf(b, "%s %s\n", kind, k)
	rv := reflect.ValueOf(v).Elem()
	for i := range rv.NumField() {
		if name := rv.Type().Field(i).Name; name != "Ref" && !rv.Field(i).IsZero() {
			fmt.Fprintf(b, "  %s: %s\n", name, value(rv.Field(i)))
		}
	}
}

func value(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case netip.Addr, netip.AddrPort, netip.Prefix:
		return fmt.Sprint(x)
	case []byte:
		return fmt.Sprintf("%q", x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return value(v.Elem())
	case reflect.Struct:
		var parts []string
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				parts = append(parts, v.Type().Field(i).Name+":"+value(v.Field(i)))
			}
		}
		return "{" + strings.Join(parts, " ") + "}"
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, value(v.Index(i)))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Map:
		var parts []string
		for it := v.MapRange(); it.Next(); {
			parts = append(parts, value(it.Key())+"="+value(it.Value()))
		}
		sort.Strings(parts)
		return "{" + strings.Join(parts, " ") + "}"
	case reflect.String:
		if s := v.String(); strings.ContainsAny(s, " ") || s == "" {
			return fmt.Sprintf("%q", s)
		}
	}
	return fmt.Sprint(v.Interface())
}
