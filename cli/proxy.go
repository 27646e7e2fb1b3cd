package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config/document"
)

// adminTimeout is for a proxy whose loops are busy: the admin interface does not run on
// them, so this is the machine's doing.
const adminTimeout = 5 * time.Second

// verb is something a proxy can be asked.
type verb struct {
	name   string
	method string
	path   string
	json   bool
	about  string
}

var verbs = []verb{
	{"info", http.MethodGet, "/server_info", true, "version, node, workers (what is shown without a word)"},
	{"ready", http.MethodGet, "/healthz/ready", false, "has it a certificate and live configuration? Exit status 1 if not"},
	{"stats", http.MethodGet, "/stats/prometheus", false, "metrics, in the Prometheus text format"},
	{"state", http.MethodGet, "/state", true, "what it decides by: listeners, routes, clusters, and what is in use"},
	{"identity", http.MethodGet, "/identity", true, "its certificate, validity, next renewal"},
	{"unknown", http.MethodGet, "/unknown_hosts", true, "hosts that were asked for in vain, and the nearest that it has"},
	{"why", http.MethodGet, "/why", true, "the last requests that failed: what it decided, each attempt"},
	{"dump", http.MethodGet, "/config_dump?include_eds", true, "its configuration as it came, in Envoy's form (see weir proxy-config)"},
	{"clusters", http.MethodGet, "/clusters?format=json", true, "clusters with their endpoints, in Envoy's form"},
	{"listeners", http.MethodGet, "/listeners?format=json", true, "listeners, in Envoy's form"},
	{"certs", http.MethodGet, "/certs", true, "certificates, in Envoy's form"},
	{"log-level", http.MethodGet, "/logging", false, "the log level; with debug, info, warn or error it is changed"},
	{"drain", http.MethodPost, "/drain", false, "take no new connections any more, and ask those there are to go"},
}

var logLevels = []string{"debug", "info", "warn", "error"}

func (a *app) proxy() *cobra.Command {
	var namespace string
	var long strings.Builder
	long.WriteString(`Ask a proxy something, over its admin interface. The control plane need not run.
In a cluster a port of its pod is forwarded, which takes the right to do that.

WORKLOAD is a pod, or a Deployment: then its first pod is asked.

`)
	var words []string
	for _, v := range verbs {
		fmt.Fprintf(&long, "  %-10s %s\n", v.name, v.about)
		words = append(words, v.name)
	}
	cmd := &cobra.Command{
		Use:   "proxy WORKLOAD [" + strings.Join(words, "|") + "] [flags]",
		Short: "ask a proxy for its state, metrics, configuration",
		Long:  strings.TrimSuffix(long.String(), "\n"),
		Example: `  weir proxy reviews-v1 ready
  weir proxy productpage-v1 stats | grep istio_requests_total
  weir proxy istio-system/istio-ingressgateway-0 listeners -o yaml
  weir proxy reviews-v1-0 log-level debug
  weir proxy web-5d8d9c-x2x4z state -n shop --context staging`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usage("`weir proxy reviews-v1 ready`; `weir status` lists the workloads", "weir proxy needs a workload")
			case len(args) > 3 || len(args) == 3 && args[1] != "log-level":
				return usage("`weir proxy --help`", "weir proxy takes a workload and one word, got %q too", args[len(args)-1])
			}
			return nil
		},
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		var out []string
		switch {
		case len(args) == 0:
			return a.completeProxies(cmd, args, word)
		case len(args) == 1:
			for _, v := range verbs {
				out = append(out, v.name+"\t"+v.about)
			}
		case len(args) == 2 && args[1] == "log-level":
			out = logLevels
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	output := choose(cmd, "output", "o", "form of what is not plain text", asJSON, asYAML)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v := verbs[0]
		if len(args) > 1 {
			i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == args[1] })
			if i < 0 {
				if near := document.Suggest(args[1], words); near != "" {
					return usage("did you mean "+near+"?", "a proxy does not know %q", args[1])
				}
				return usage("use one of: "+joined(words), "a proxy does not know %q", args[1])
			}
			v = verbs[i]
		}
		if len(args) > 2 {
			if !slices.Contains(logLevels, args[2]) {
				return usage("use one of: "+joined(logLevels), "%q is not a log level", args[2])
			}
			v.method, v.path = http.MethodPost, v.path+"?level="+url.QueryEscape(args[2])
		}
		w, err := a.window(cmd.Context(), args[0], namespace)
		if err != nil {
			return err
		}
		return a.admin(cmd.Context(), w, v, output.value)
	}
	return cmd
}

func (a *app) adminSocket(name string) string {
	return filepath.Join(client.ProxyFolder(a.state), strings.Replace(name, "/", "_", 1), "admin.sock")
}

// proxyNames are namespace/name of the proxies, from the state folder.
func (a *app) proxyNames() []string {
	entries, err := os.ReadDir(client.ProxyFolder(a.state))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if ns, name, ok := strings.Cut(e.Name(), "_"); ok { // neither holds a "_"
			out = append(out, ns+"/"+name)
		}
	}
	return out
}

// admin asks a proxy and prints the answer.
func (a *app) admin(ctx context.Context, w *window, v verb, format string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	resp, err := w.ask(ctx, v.method, v.path)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if v.json && resp.StatusCode == http.StatusOK && format != asJSON {
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return fmt.Errorf("reading the proxy's answer: %w", err)
		}
		return a.out.emit(format, json.RawMessage(data))
	}
	if _, err := io.Copy(a.out.w, resp.Body); err != nil {
		return fmt.Errorf("reading the proxy's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return silent(exitNo)
	}
	return nil
}

// askProxy speaks HTTP on a proxy's admin socket. The caller closes the body.
func askProxy(ctx context.Context, socket, method, path string) (*http.Response, error) {
	return askVia(ctx, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}, method, path)
}

// askVia is askProxy by another way.
func askVia(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), method, path string) (*http.Response, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	req, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, hinted("`weir status` and `weir logs --proxy` may say why", "the proxy does not run")
	}
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, fmt.Errorf("asking the proxy: %w", err)
	}
	return resp, nil
}
