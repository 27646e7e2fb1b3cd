package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/inject/manifest"
	"github.com/weirmesh/weir/install"
)

// injectFlags are where the injector's settings come from.
type injectFlags struct {
	paths                         []string
	meshFile, configFile          string
	valuesFile, operatorFile      string
	meshMap, configMap            string
	namespace                     string
	revision, webhookName         string
	explain, classic, fromCluster bool
}

func (a *app) inject() *cobra.Command {
	var f injectFlags
	cmd := &cobra.Command{
		Use:     "inject -f PATH [flags]",
		Aliases: []string{"kube-inject"},
		Short:   "put proxies into the workloads of files",
		Long: `Put proxies into the workloads of files, as the cluster's webhook does it to pods,
and write the files to standard output. Documents that are no workload, or get no
proxy, stay as they are byte for byte.

Settings are those of a new installation, of the files that are named, or with
--from-cluster those of the cluster.`,
		Example: `  weir inject -f bookinfo.yaml | kubectl apply -f -
  weir inject -f deploy.yaml --explain
  kubectl get deployment web -o yaml | weir inject -f - --from-cluster`,
		Args: noArguments,
	}
	filesFlag(cmd, &f.paths)
	output := &formOrFile{choice: choice{"keep", []string{"keep", asYAML, asJSON}}}
	cmd.Flags().VarP(output, "output", "o", "form of the output (keep: each document's own), or the file to write instead of standard output")
	_ = cmd.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return output.allowed, cobra.ShellCompDirectiveDefault
	})
	flags := cmd.Flags()
	flags.BoolVar(&f.explain, "explain", false, "say for each workload whether it gets a proxy, and why, instead")
	flags.StringVarP(&f.namespace, "namespace", "n", "default", "`namespace` of workloads that name none")
	flags.StringVarP(&a.meant.Namespace, "istioNamespace", "i", inject.DefaultNamespace, "`namespace` of the control plane")
	flags.StringVarP(&f.revision, "revision", "r", "", "`revision` of the control plane")
	flags.StringVar(&f.meshFile, "meshConfigFile", "", "`file` with the MeshConfig")
	flags.StringVar(&f.valuesFile, "valuesFile", "", "`file` with the injector's values, JSON or YAML")
	flags.StringVar(&f.configFile, "injectConfigFile", "", "`file` with the injector's configuration (policy, selectors)")
	flags.BoolVar(&f.classic, "no-native-sidecars", false, "for clusters before Kubernetes 1.29: the proxy is an ordinary container")
	flags.BoolVar(&f.fromCluster, "from-cluster", false, "take the settings that no file gives from the cluster")
	flags.StringVar(&f.meshMap, "meshConfigMapName", istio.MeshConfigName, "`name` of the cluster's ConfigMap with the MeshConfig")
	flags.StringVar(&f.configMap, "injectConfigMapName", inject.ConfigMapName, "`name` of the cluster's ConfigMap with the injector's settings")
	flags.StringVar(&f.operatorFile, "operatorFileName", "", "not supported: there is no operator")
	flags.StringVar(&f.webhookName, "webhookConfig", "", "not supported: settings come from ConfigMaps")
	for _, name := range []string{"meshConfigFile", "valuesFile", "injectConfigFile"} {
		_ = cmd.MarkFlagFilename(name)
	}
	for _, name := range []string{"namespace", "istioNamespace", "revision", "meshConfigMapName", "injectConfigMapName"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case f.operatorFile != "":
			return usage("give the values by --valuesFile", "--operatorFileName: there is no operator whose file could be read")
		case f.webhookName != "":
			return usage("use --from-cluster", "--webhookConfig: settings are not asked of the webhook")
		case len(f.paths) == 0:
			return usage("`weir inject -f deploy.yaml`, or -f - for standard input", "weir inject needs to know what to inject into")
		}
		s, err := a.injectSettings(cmd.Context(), &f)
		if err != nil {
			return err
		}
		return a.injectFiles(&f, s, output)
	}
	return cmd
}

// injectSettings come from files, from the cluster, or are those of a new installation.
func (a *app) injectSettings(ctx context.Context, f *injectFlags) (*inject.Settings, error) {
	src := inject.Source{Namespace: a.meant.Namespace, Revision: f.revision, NativeSidecars: !f.classic}
	if err := a.chartSettings(&src); err != nil {
		return nil, err
	}
	if f.fromCluster {
		c, err := a.connect()
		if err != nil {
			return nil, err
		}
		v, err := version.ParseGeneric(c.Version)
		if err != nil {
			return nil, fmt.Errorf("the cluster's version: %w", err)
		}
		src.NativeSidecars = v.AtLeast(version.MustParseGeneric("1.29")) && !f.classic
		suffix := ""
		if f.revision != "" && f.revision != "default" {
			suffix = "-" + f.revision
		}
		for _, m := range []struct {
			name, key string
			to        *string
		}{{f.meshMap, istio.MeshConfigKey, &src.Mesh}, {f.configMap, inject.ConfigKey, &src.Config}, {f.configMap, inject.ValuesKey, &src.Values}} {
			cm, err := c.Client().CoreV1().ConfigMaps(a.meant.Namespace).Get(ctx, m.name+suffix, metav1.GetOptions{})
			if err != nil {
				return nil, hinted("is the mesh installed there? `weir verify` says", "reading ConfigMap %s: %w", m.name+suffix, err)
			}
			*m.to = cm.Data[m.key]
		}
	}
	for _, file := range []struct {
		path string
		to   *string
	}{{f.meshFile, &src.Mesh}, {f.configFile, &src.Config}, {f.valuesFile, &src.Values}} {
		if file.path == "" {
			continue
		}
		data, err := os.ReadFile(file.path)
		if err != nil {
			return nil, usage("--meshConfigFile, --injectConfigFile and --valuesFile take files", "reading the settings: %w", err)
		}
		*file.to = string(data)
	}
	s, findings, err := inject.NewSettings(src, strings.TrimPrefix(a.Version, "v"))
	if err != nil {
		return nil, err
	}
	for _, x := range findings {
		a.errs.printf("%s\n", clean(x.String()))
	}
	return s, nil
}

// chartSettings are those of a new installation. Its MeshConfig says nothing that is not the
// default here, too.
func (a *app) chartSettings(src *inject.Source) error {
	r, err := install.Render(install.Settings{Namespace: src.Namespace, Version: strings.TrimPrefix(a.Version, "v")})
	if err != nil {
		return err
	}
	for _, o := range r.Objects {
		if o.GetKind() == "ConfigMap" && o.GetName() == inject.ConfigMapName {
			data, _, err := unstructured.NestedStringMap(o.Object, "data")
			src.Config, src.Values = data[inject.ConfigKey], data[inject.ValuesKey]
			return err
		}
	}
	return nil
}

// injectFiles writes what becomes of files. Nothing is written if a workload cannot get
// its proxy: what is piped into kubectl must not run unprotected.
func (a *app) injectFiles(f *injectFlags, s *inject.Settings, to *formOrFile) error {
	format := manifest.Format(strings.TrimPrefix(to.value, "keep"))
	var texts []string
	var all []manifest.Workload
	for _, path := range f.paths {
		name, read := path, func() ([]byte, error) { return os.ReadFile(path) }
		if path == "-" {
			name, read = stdinName, func() ([]byte, error) { return io.ReadAll(a.Stdin) }
		}
		data, err := read()
		if err != nil {
			return usage("-f takes a file, or - for standard input", "reading what to inject into: %w", err)
		}
		text, workloads, err := manifest.Inject(string(data), manifest.Options{Settings: s, Namespace: f.namespace, File: name, Format: format})
		if err != nil {
			return err
		}
		if len(texts) > 0 && format != manifest.JSON && !strings.HasPrefix(text, "---") {
			text = "---\n" + text
		}
		if len(texts) > 0 && !strings.HasSuffix(texts[len(texts)-1], "\n") {
			text = "\n" + text
		}
		texts, all = append(texts, text), append(all, workloads...)
	}
	refused := 0
	var findings []apiv1.Finding
	t := newTable("WORKLOAD", "PROXY", "WHY")
	for _, w := range all {
		findings = append(findings, apiFindings(w.Findings)...)
		answer := "no"
		switch {
		case w.Refused:
			answer = "refused"
			refused++
		case w.Decision.Inject:
			answer = "yes"
		}
		t.add(text(object(w.Object.Kind, w.Object.Namespace, w.Object.Name)), text(answer), text(w.Decision.Message))
	}
	if f.explain {
		a.out.print(t)
	}
	if len(findings) > 0 {
		a.errs.findings(findings)
	}
	if refused > 0 {
		return hinted("correct what is said above; nothing was written", "%s cannot get a proxy", count(refused, "workload"))
	}
	if f.explain {
		return nil
	}
	if to.file != "" {
		return os.WriteFile(to.file, []byte(strings.Join(texts, "")), 0o644)
	}
	for _, s := range texts {
		a.out.printf("%s", s)
	}
	return nil
}

// formOrFile is a form, or a file as istioctl kube-inject has it: a word with a dot or a slash.
type formOrFile struct {
	choice
	file string
}

func (o *formOrFile) Type() string { return o.choice.Type() + "|FILE" }

func (o *formOrFile) Set(s string) error {
	if strings.ContainsAny(s, "./") {
		o.file = s
		return nil
	}
	return o.choice.Set(s)
}
