// Package install is what an installation consists of: the Helm chart, the profiles, the
// CustomResourceDefinitions, and what settings of Istio's charts became.
//
// Settings enter (profile, files, KEY=VALUE), objects and notices leave. It is pure: the
// chart is rendered in memory, nothing asks a cluster. Called by cli; everything may be
// called from any goroutine.
package install

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	helm "helm.sh/helm/v4/pkg/chart"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

//go:embed chart chart/templates/_names.tpl profiles
var files embed.FS

// Owner is the label with the release's name that everything an installation consists of
// carries, what the control plane makes included.
const Owner = "install.weir.dev/owner"

// Settings say what to install.
type Settings struct {
	Release   string // "weir", or "weir-REVISION", if empty
	Namespace string // "istio-system" if empty
	Profile   string // "default" if empty
	Version   string // of the images, unless a value says otherwise
	Kube      string // version of the cluster, as in v1.34.4; the oldest supported if empty

	// Files are values in YAML, Set assignments as Helm's --set takes them. What comes later
	// wins, and Set over Files over the profile.
	Files [][]byte
	Set   []string
}

// Release is an installation, rendered.
type Release struct {
	Name, Namespace string
	Revision        string                       // "" is the default one
	Objects         []*unstructured.Unstructured // in the order in which they are to be made
	Values          map[string]any               // all of them
	Notices         []string                     // settings that mean something else here than they say
}

// Profiles are the names that Settings.Profile takes.
func Profiles() []string {
	entries, _ := fs.ReadDir(files, "profiles") // embedded
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// Render renders an installation. An error names the setting and what to say instead.
func Render(s Settings) (*Release, error) {
	chart, err := load()
	if err != nil {
		return nil, err
	}
	r := &Release{Namespace: cmp.Or(s.Namespace, "istio-system")}
	asked, err := s.values()
	if err != nil {
		return nil, err
	}
	if r.Notices, err = translate(asked); err != nil {
		return nil, err
	}
	if err = unknown(chart.Values, chart.Values, asked, ""); err != nil {
		return nil, err
	}
	profile, err := readProfile(cmp.Or(s.Profile, "default"))
	if err != nil {
		return nil, err
	}
	r.Values = chart.Values
	merge(r.Values, profile)
	merge(r.Values, asked)
	withoutNulls(r.Values)
	if err := cmp.Or(check(r.Values), combined(r.Values)); err != nil {
		return nil, err
	}
	if err := r.revise(s, asked); err != nil {
		return nil, err
	}
	if s.Version != "" {
		chart.Metadata.AppVersion = s.Version
	}
	caps := common.DefaultCapabilities.Copy()
	if kube, err := common.ParseKubeVersion(cmp.Or(s.Kube, "v1.29.0")); err == nil {
		caps.KubeVersion = *kube
	}
	about, err := helm.NewAccessor(chart)
	if err != nil {
		return nil, err
	}
	// What Helm gives to templates, put together here: its package for that brings a validator of
	// JSON schemas along, which cost every command 7.5 ms of CPU at its start (2026-11).
	all := common.Values{
		"Chart": about.MetadataAsMap(), "Capabilities": caps, "Values": r.Values,
		"Release": map[string]any{"Name": r.Name, "Namespace": r.Namespace, "IsUpgrade": false, "IsInstall": true, "Revision": 1, "Service": "Helm"},
	}
	texts, err := engine.Render(chart, all)
	if err != nil {
		return nil, fmt.Errorf("rendering the chart: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if path.Ext(name) != ".yaml" {
			continue
		}
		objects, err := Decode([]byte(texts[name]))
		if err != nil {
			return nil, fmt.Errorf("rendering the chart: %s: %w", name, err)
		}
		r.Objects = append(r.Objects, objects...)
	}
	slices.SortStableFunc(r.Objects, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	return r, nil
}

// CRDs are the definitions of Istio's kinds, none if the settings leave them to others.
func (r *Release) CRDs() ([]*unstructured.Unstructured, error) {
	if on, _ := r.Values["crds"].(bool); !on {
		return nil, nil
	}
	b, err := files.ReadFile("chart/crds/istio.yaml")
	if err != nil {
		return nil, err
	}
	crds, err := Decode(b)
	for _, crd := range crds {
		crd.SetLabels(map[string]string{Owner: r.Name, "app.kubernetes.io/managed-by": "weir", "app.kubernetes.io/part-of": "istio"})
	}
	return crds, err
}

// order of kinds: what others need comes first. Webhooks come last, so that nothing is
// asked before somebody can answer.
var order = []string{"Namespace", "ResourceQuota", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "Service", "DaemonSet", "Deployment"}

func rank(o *unstructured.Unstructured) int {
	if strings.HasSuffix(o.GetKind(), "WebhookConfiguration") {
		return len(order) + 1
	}
	if i := slices.Index(order, o.GetKind()); i >= 0 {
		return i
	}
	return len(order)
}

func load() (*chartv2.Chart, error) {
	var buffered []*archive.BufferedFile
	err := fs.WalkDir(files, "chart", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(p)
		buffered = append(buffered, &archive.BufferedFile{Name: strings.TrimPrefix(p, "chart/"), Data: b})
		return err
	})
	if err != nil {
		return nil, err
	}
	return loader.LoadFiles(buffered)
}

func (s Settings) values() (map[string]any, error) {
	out := map[string]any{}
	for i, f := range s.Files {
		m := map[string]any{}
		if err := sigsyaml.Unmarshal(f, &m); err != nil {
			return nil, fmt.Errorf("values file %d: %w", i+1, err)
		}
		merge(out, m)
	}
	for _, set := range s.Set {
		if !strings.Contains(set, "=") {
			return nil, fmt.Errorf("--set %s: it must be KEY=VALUE", set)
		}
		if err := strvals.ParseInto(set, out); err != nil {
			return nil, fmt.Errorf("--set %s: %w", set, err)
		}
	}
	return out, nil
}

func readProfile(name string) (map[string]any, error) {
	b, err := files.ReadFile("profiles/" + name + ".yaml")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, fmt.Errorf("there is no profile %q; there are %s", name, strings.Join(Profiles(), ", "))
	}
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	return m, sigsyaml.Unmarshal(b, &m)
}

// Decode reads all documents of a file.
func Decode(b []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(b), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := d.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
}
