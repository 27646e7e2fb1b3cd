package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/mesh"
)

// The table is what documentation and command line print.
func TestCodesAreExplained(t *testing.T) {
	for i, c := range codes {
		if c.Title == "" || !strings.HasSuffix(c.Explanation, ".") {
			t.Errorf("%s has no title or explanation: %+v", c.Code, c)
		}
		if i > 0 && c.Code <= codes[i-1].Code {
			t.Errorf("%s follows %s", c.Code, codes[i-1].Code)
		}
	}
	if _, ok := Explain("WEIR9999"); ok {
		t.Error("a code that does not exist is explained")
	}
}

var update = flag.Bool("update", false, "rewrite docs/findings.md")

// docs/findings.md is the table.
func TestFindingsAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Findings\n\nWhat `weir analyze`, `weir status` and the API say about configuration. IST codes are Istio's and mean the same there; WEIR codes\nare our own. An *error* about one object keeps that object out of force: its last good version stays. (`go test ./config -update` writes\nthis page.)\n")
	for _, c := range codes {
		fmt.Fprintf(&b, "\n## %s %s\n\n*%s.* %s\n", c.Code, c.Title, c.Severity, c.Explanation)
		if want := "docs/findings.md#" + strings.ToLower(strings.ReplaceAll(fmt.Sprintf("%s %s", c.Code, c.Title), " ", "-")); c.Docs() != want {
			t.Errorf("%s: %s leads nowhere, the heading is at %s", c.Code, c.Docs(), want)
		}
	}
	const path = "../docs/findings.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the table says: run go test ./config -update (%v)", path, err)
	}
}

func TestTidy(t *testing.T) {
	a := New(SchemaError, mesh.Ref{Kind: "Service", Name: "a", File: "a.yaml", Line: 3}, "spec", 0, "x", "")
	b := New(Deprecated, mesh.Ref{File: "a.yaml"}, "", 1, "y", "do z")
	c := New(LastGoodServed, mesh.Ref{File: "b.yaml"}, "", 1, "z", "")
	got := Tidy([]Finding{c, a, b, a})
	if !slices.Equal(got, []Finding{b, a, c}) || a.Line != 3 {
		t.Errorf("%v", got)
	}
	worst := New(TrafficNotCaptured, mesh.Ref{Kind: "Pod", Name: "z", File: "z.yaml"}, "", 9, "w", "")
	if got := Tidy([]Finding{a, worst, b}); got[0] != worst {
		t.Errorf("a pod whose traffic goes past its proxy is not first: %v", got)
	}
	if m := Merge([]Finding{b, c}, []Finding{a, c}); !slices.Equal(m, []Finding{b, a, c}) {
		t.Errorf("merged: %v", m)
	}
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"code":"IST0106","severity":"error","object":{"kind":"Service","name":"a","file":"a.yaml","line":3},"fieldPath":"spec","line":3,"message":"x"}`; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	var back Finding
	if err := json.Unmarshal(data, &back); err != nil || back != a {
		t.Errorf("%+v %v", back, err)
	}
}

func TestIDs(t *testing.T) {
	id := ID{"apps", "Deployment", "ns", "web"}
	if back, err := ParseID(id.String()); back != id || err != nil {
		t.Error(back, err)
	}
	if _, err := ParseID("apps/Deployment"); err == nil {
		t.Error("half an ID was read")
	}
}

// istioCodes are the messages of Istio's analysis, with their levels (1.26).
const istioCodes = "IST0001 InternalError E; IST0002 Deprecated W; IST0101 ReferencedResourceNotFound E; IST0102 NamespaceNotInjected I; IST0103 PodMissingProxy W; " +
	"IST0106 SchemaValidationError E; IST0107 MisplacedAnnotation W; IST0108 UnknownAnnotation W; IST0109 ConflictingMeshGatewayVirtualServiceHosts E; " +
	"IST0110 ConflictingSidecarWorkloadSelectors E; IST0111 MultipleSidecarsWithoutWorkloadSelectors E; IST0112 " +
	"VirtualServiceDestinationPortSelectorRequired E; IST0116 DeploymentAssociatedToMultipleServices W; IST0118 PortNameIsNotUnderNamingConvention I; " +
	"IST0123 NamespaceMultipleInjectionLabels W; IST0125 InvalidAnnotation W; IST0126 UnknownMeshNetworksServiceRegistry E; IST0127 " +
	"NoMatchingWorkloadsFound W; IST0128 NoServerCertificateVerificationDestinationLevel W; IST0129 NoServerCertificateVerificationPortLevel W; IST0130 " +
	"VirtualServiceUnreachableRule W; IST0131 VirtualServiceIneffectiveMatch I; IST0132 VirtualServiceHostNotFoundInGateway W; IST0133 SchemaWarning W; " +
	"IST0134 ServiceEntryAddressesRequired W; IST0135 DeprecatedAnnotation I; IST0136 AlphaAnnotation I; IST0137 DeploymentConflictingPorts W; IST0138 " +
	"GatewayDuplicateCertificate W; IST0139 InvalidWebhook E; IST0140 IngressRouteRulesNotAffected W; IST0141 InsufficientPermissions E; IST0142 " +
	"UnsupportedKubernetesVersion E; IST0143 LocalhostListener E; IST0144 InvalidApplicationUID W; IST0145 ConflictingGateways E; IST0146 " +
	"ImageAutoWithoutInjectionWarning W; IST0147 ImageAutoWithoutInjectionError E; IST0148 NamespaceInjectionEnabledByDefault I; IST0149 " +
	"JwtClaimBasedRoutingWithoutRequestAuthN E; IST0150 ExternalNameServiceTypeInvalidPortName W; IST0151 EnvoyFilterUsesRelativeOperation W; IST0152 " +
	"EnvoyFilterUsesReplaceOperationIncorrectly E; IST0153 EnvoyFilterUsesAddOperationIncorrectly E; IST0154 EnvoyFilterUsesRemoveOperationIncorrectly E; " +
	"IST0155 EnvoyFilterUsesRelativeOperationWithProxyVersion W; IST0156 UnsupportedGatewayAPIVersion E; IST0157 InvalidTelemetryProvider W; IST0158 " +
	"PodsIstioProxyImageMismatchInNamespace W; IST0159 ConflictingTelemetryWorkloadSelectors E; IST0160 MultipleTelemetriesWithoutWorkloadSelectors E; " +
	"IST0161 InvalidGatewayCredential E; IST0162 GatewayPortNotDefinedOnService W; IST0163 InvalidExternalControlPlaneConfig W; IST0164 " +
	"ExternalControlPlaneAddressIsNotAHostname I; IST0165 ReferencedInternalGateway W; IST0166 IneffectiveSelector W; IST0167 IneffectivePolicy W; IST0168 " +
	"UnknownUpgradeCompatibility W; IST0169 UpdateIncompatibility W; IST0170 MultiClusterInconsistentService W; IST0171 NegativeConditionStatus W; IST0172 " +
	"FutureUnsupportedGatewayAPIVersion W; IST0173 DestinationRuleSubsetNotSelectPods E; IST0174 UnknownDestinationRuleHost W; IST0175 " +
	"JwksUriFetchUnrestricted W; IST0176 GatewayAPICRDVersionBelowMinimum W; IST0177 ConflictingServiceEntryProtocol W"

// docs/analysis.md has a row for each of Istio's codes, that says by what its matter is found here, or why it cannot be: a code that is here, with Istio's
// name, a code of ours, or a sentence.
func TestIstioCodesAreAccountedFor(t *testing.T) {
	page, err := os.ReadFile("../docs/analysis.md")
	if err != nil {
		t.Fatal(err)
	}
	here := map[string]CodeInfo{}
	for _, c := range Codes() {
		here[string(c.Code)] = c
	}
	one, ranged := regexp.MustCompile(`IST[0-9]{4}`), regexp.MustCompile(`(IST[0-9]{4}) to (IST[0-9]{4})`)
	rows := map[string]string{} // what is said of each
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, " | ")
		if len(cells) != 2 || !strings.HasPrefix(line, "| IST") {
			continue
		}
		for _, c := range one.FindAllString(cells[0], -1) {
			rows[c] = cells[1]
		}
		for _, r := range ranged.FindAllStringSubmatch(cells[0], -1) {
			for m := range strings.SplitSeq(istioCodes, "; ") {
				if c := m[:7]; c > r[1] && c < r[2] {
					rows[c] = cells[1]
				}
			}
		}
		for _, c := range regexp.MustCompile(`(IST|WEIR)[0-9]{4}`).FindAllString(cells[1], -1) {
			if _, ok := here[c]; !ok {
				t.Errorf("docs/analysis.md: %s is said to be found, and is no code", c)
			}
		}
	}
	known := map[string]bool{}
	for m := range strings.SplitSeq(istioCodes, "; ") {
		words := strings.Fields(m)
		code, name := words[0], words[1]
		known[code] = true
		said, ok := rows[code]
		if !ok {
			t.Errorf("docs/analysis.md says nothing of %s %s", code, name)
			continue
		}
		c, found := here[code]
		if found && c.Title != name {
			t.Errorf("%s is called %s, Istio's is %s", code, c.Title, name)
		}
		if own := strings.Contains(said, code) || strings.HasPrefix(said, "the same"); own != found {
			t.Errorf("docs/analysis.md: of %s it is said %q, and that it is a code here is %v", code, said, found)
		}
	}
	for code := range here {
		if strings.HasPrefix(code, "IST") && !known[code] {
			t.Errorf("%s is no code of Istio's", code)
		}
	}
}
