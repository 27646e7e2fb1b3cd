package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config/document"
)

// window is the way to the admin interface of one proxy: on this machine a socket in the
// state folder, which only its owner may use. Commands know this type and not the way.
type window struct {
	name string // namespace/name of the workload
	ask  func(ctx context.Context, method, path string) (*http.Response, error)
}

// window opens the way to the proxy of a workload: a pod, or a Deployment, of which one
// pod is asked; as name, namespace/name or, as istioctl has it, name.namespace.
func (a *app) window(workload, namespace string) (*window, error) {
	if ns, name, ok := strings.Cut(workload, "/"); ok {
		namespace, workload = ns, name
	}
	if namespace == "" {
		namespace = a.namespace()
	}
	known := a.proxyNames()
	found := podsOf(known, namespace, workload)
	if dot := strings.LastIndexByte(workload, '.'); len(found) == 0 && dot > 0 {
		if pods := podsOf(known, workload[dot+1:], workload[:dot]); len(pods) > 0 {
			namespace, workload, found = workload[dot+1:], workload[:dot], pods
		}
	}
	switch {
	case len(known) == 0:
		return nil, client.ErrNoMesh
	case len(found) == 0:
		hint := "proxies: " + joined(known)
		if near := document.Suggest(namespace+"/"+workload, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, hinted(hint, "%s/%s has no proxy", namespace, workload)
	case len(found) > 1:
		a.errs.printf("%s/%s is asked, one of %d\n", namespace, found[0], len(found))
	}
	name := namespace + "/" + found[0]
	socket := a.adminSocket(name)
	return &window{name, func(ctx context.Context, method, path string) (*http.Response, error) {
		return askProxy(ctx, socket, method, path)
	}}, nil
}

// podsOf are the pods called workload, or else those of the Deployment called so, which
// are named like it, with their ordinal.
func podsOf(known []string, namespace, workload string) []string {
	var found []string
	for _, name := range known {
		ns, pod, _ := strings.Cut(name, "/")
		if ns != namespace {
			continue
		}
		if pod == workload {
			return []string{pod}
		}
		if ordinal, ok := strings.CutPrefix(pod, workload+"-"); ok && strings.Trim(ordinal, "0123456789") == "" {
			found = append(found, pod)
		}
	}
	return found
}

// get reads what the proxy answers to a GET; the caller closes it.
func (w *window) get(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := w.ask(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	const most = 4 << 10
	why, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return nil, fmt.Errorf("reading the proxy's answer: %w", err)
	}
	return nil, fmt.Errorf("the proxy of %s answers %s: %s", w.name, resp.Status, strings.TrimSpace(string(why)))
}
