"""Any images, in one folder per class."""

from pathlib import Path

from bigain.datasets.image_files import ImageFile, ImageFiles, check_name, image_names
from bigain.datasets.prompts import TEMPLATE, name_of_class, prompts_for
from bigain.errors import BiGainError


class Folder(ImageFiles):
    """PNG, JPEG, WebP and BMP images directly in the folder of their class; no dot files.

    Classes are in the order of their folders' names. The name of a class is that of its folder,
    with spaces instead of underscores.

    Args:
        root: the folder that contains the class folders.
        size: side of the images in pixels.
        template: a prompt with {} for the class's name.
        prompts: a CSV file with the columns class_name and prompt, used instead of the template. It
            must name every class and no other, with either spaces or underscores, and give each
            its own prompt.

    Raises:
        BiGainError: if there are no class folders, one is empty, two give the same name, or the
            prompts do not match the classes.
    """

    def __init__(
        self,
        root: str,
        *,
        size: int,
        template: str = TEMPLATE,
        prompts: str | None = None,
    ) -> None:
        folder = Path(root)
        folders = _folders(folder)
        names = [name_of_class(path.name) for path in folders]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise BiGainError(
                f"two folders in {folder} are the class {repeated[0]!r}; rename or merge them"
            )
        files = []
        for label, path in enumerate(folders):
            found = image_names(path)
            if not found:
                raise BiGainError(
                    f"{path} holds no images; put PNG, JPEG, WebP or BMP files directly into it, "
                    "or remove it"
                )
            below = (f"{path.name}/{name}" for name in found)
            files += [ImageFile(name, name, (label,)) for name in below]
        said = prompts_for(names, template, prompts)
        super().__init__("folder", "all", size, folder, files, names, said)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise BiGainError(f"{root} is not a folder; set dataset.root to a folder of class folders")
    found = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for path in found:
        check_name(root, path.name)
    if not found:
        raise BiGainError(f"{root} holds no folders; put the images of each class into its own")
    return found
