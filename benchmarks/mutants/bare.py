"""A source without what no test could tell apart, so that two that differ in nothing else are equal.

Those are annotations, aliases of types (`Literal`) and the type that `cast` names; docstrings and other
text, which is a string of three words or more; what an error says; checks of what holds anyway
(`assert`, `strict=` of zip); `__all__`; and the settings of caches.
"""

import ast

CACHES = ("cache", "lru_cache")


class _Bare(ast.NodeTransformer):
    """A program without what no test could tell apart."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        text = isinstance(node.value, str) and len(node.value.split()) > 2
        return ast.Constant("") if text else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        said = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
        return ast.Constant("") if len(said.split()) > 2 else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(kind, None)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.Pass()

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return self.generic_visit(ast.AnnAssign(node.target, ast.Constant(""), node.value, node.simple))

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        return ast.Pass() if ast.unparse(node.targets[0]) == "__all__" else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = ast.unparse(node.func)
        if name == "cast":
            node.args = node.args[-1:]
        if name == "zip":
            node.keywords = []
        if name in CACHES:
            return node.func
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return node.value if ast.unparse(node.value) == "Literal" else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def bare(code: str) -> str:
    """The program as it is compared: the same for two sources that no test could tell apart."""
    return ast.dump(_Bare().visit(ast.parse(code)))
