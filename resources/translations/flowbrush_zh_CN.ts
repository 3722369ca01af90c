<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="zh_CN" sourcelanguage="en">
<context>
  <name>flowbrush</name>
  <message>
    <source>&amp;Create</source>
    <translation>创作(&amp;C)</translation>
  </message>
  <message>
    <source>&amp;Edit</source>
    <translation>编辑(&amp;E)</translation>
  </message>
  <message>
    <source>&amp;File</source>
    <translation>文件(&amp;F)</translation>
  </message>
  <message>
    <source>&amp;Help</source>
    <translation>帮助(&amp;H)</translation>
  </message>
  <message>
    <source>&amp;Layer</source>
    <translation>图层(&amp;L)</translation>
  </message>
  <message>
    <source>&amp;Mask</source>
    <translation>蒙版(&amp;M)</translation>
  </message>
  <message>
    <source>&amp;View</source>
    <translation>视图(&amp;V)</translation>
  </message>
  <message>
    <source>100 %</source>
    <translation>100 %</translation>
  </message>
  <message>
    <source>200 %</source>
    <translation>200 %</translation>
  </message>
  <message>
    <source>400 %</source>
    <translation>400 %</translation>
  </message>
  <message>
    <source>800 %</source>
    <translation>800 %</translation>
  </message>
  <message>
    <source>A ControlNet or control LoRA: its name in the catalog or its file</source>
    <translation>ControlNet 或控制 LoRA：目录中的名称或文件名</translation>
  </message>
  <message>
    <source>A box around it</source>
    <translation>它外面的方框</translation>
  </message>
  <message>
    <source>A few sentences</source>
    <translation>几句话</translation>
  </message>
  <message>
    <source>A file in the folder upscalers that enlarges first</source>
    <translation>upscalers 文件夹中的文件，先用它放大</translation>
  </message>
  <message>
    <source>A new seed each time</source>
    <translation>每次使用新种子</translation>
  </message>
  <message>
    <source>A paragraph</source>
    <translation>一段话</translation>
  </message>
  <message>
    <source>A sentence</source>
    <translation>一句话</translation>
  </message>
  <message>
    <source>A style that comes with the program</source>
    <translation>随程序提供的风格</translation>
  </message>
  <message>
    <source>About Flowbrush</source>
    <translation>关于 Flowbrush</translation>
  </message>
  <message>
    <source>Add</source>
    <translation>相加</translation>
  </message>
  <message>
    <source>Add a layer (Ctrl+Shift+N)</source>
    <translation>添加图层 (Ctrl+Shift+N)</translation>
  </message>
  <message>
    <source>Add a picture</source>
    <translation>添加图片</translation>
  </message>
  <message>
    <source>Add layer</source>
    <translation>添加图层</translation>
  </message>
  <message>
    <source>Add layer mask</source>
    <translation>添加图层蒙版</translation>
  </message>
  <message>
    <source>Add or remove a layer mask</source>
    <translation>添加或移除图层蒙版</translation>
  </message>
  <message>
    <source>Add or remove a mask</source>
    <translation>添加或移除图层蒙版</translation>
  </message>
  <message>
    <source>Add something</source>
    <translation>添加物体</translation>
  </message>
  <message>
    <source>Add variants</source>
    <translation>添加变体</translation>
  </message>
  <message>
    <source>Adds to the mask</source>
    <translation>添加到蒙版</translation>
  </message>
  <message>
    <source>All files (*)</source>
    <translation>所有文件 (*)</translation>
  </message>
  <message>
    <source>All results, with variants</source>
    <translation>全部结果及其变体</translation>
  </message>
  <message>
    <source>Also in results of other pictures</source>
    <translation>也在其他图片的结果中查找</translation>
  </message>
  <message>
    <source>An image editor with layers and masks whose brush is FLUX.1.</source>
    <translation>一款带图层和蒙版的图像编辑器，它的画笔是 FLUX.1。</translation>
  </message>
  <message>
    <source>As painted</source>
    <translation>按所绘</translation>
  </message>
  <message>
    <source>Ask again.</source>
    <translation>请重新查找。</translation>
  </message>
  <message>
    <source>Background</source>
    <translation>背景</translation>
  </message>
  <message>
    <source>Blend mode</source>
    <translation>混合模式</translation>
  </message>
  <message>
    <source>Blur</source>
    <translation>模糊</translation>
  </message>
  <message>
    <source>Brush</source>
    <translation>画笔</translation>
  </message>
  <message>
    <source>Busy</source>
    <translation>忙碌</translation>
  </message>
  <message>
    <source>Cancel</source>
    <translation>取消</translation>
  </message>
  <message>
    <source>Cancel the running job</source>
    <translation>取消当前任务</translation>
  </message>
  <message>
    <source>Cancel this job (Shift+X)</source>
    <translation>取消此任务 (Shift+X)</translation>
  </message>
  <message>
    <source>Cancelled.</source>
    <translation>已取消。</translation>
  </message>
  <message>
    <source>Cancelling</source>
    <translation>正在取消</translation>
  </message>
  <message>
    <source>Canvas</source>
    <translation>画布</translation>
  </message>
  <message>
    <source>Change pixels</source>
    <translation>更改像素</translation>
  </message>
  <message>
    <source>Change the mask</source>
    <translation>更改蒙版</translation>
  </message>
  <message>
    <source>Changes the picture as you say and keeps the rest to the byte; a mask limits it</source>
    <translation>按您的话修改图片，其余部分逐字节不变；可用蒙版限定范围</translation>
  </message>
  <message>
    <source>Choose a file…</source>
    <translation>选择文件…</translation>
  </message>
  <message>
    <source>Choose a picture</source>
    <translation>选择图片</translation>
  </message>
  <message>
    <source>Choose variant</source>
    <translation>选择变体</translation>
  </message>
  <message>
    <source>Chosen pictures</source>
    <translation>选定的图片</translation>
  </message>
  <message>
    <source>Clear the mask</source>
    <translation>清除蒙版</translation>
  </message>
  <message>
    <source>Clear the mask (Ctrl+D)</source>
    <translation>清除蒙版 (Ctrl+D)</translation>
  </message>
  <message>
    <source>Click a thing to mask it whole</source>
    <translation>点击一个物体，将它整个选入蒙版</translation>
  </message>
  <message>
    <source>Click to mask</source>
    <translation>点选蒙版</translation>
  </message>
  <message>
    <source>Click to take a colour from the picture.</source>
    <translation>点击画面取色。</translation>
  </message>
  <message>
    <source>Click what belongs to the mask; Alt or the right button what does not. Drag a box around it. Shift adds to the mask.</source>
    <translation>点击属于蒙版的部分；按住 Alt 或用右键点击不属于的部分。拖动可画方框，Shift 添加到现有蒙版。</translation>
  </message>
  <message>
    <source>Close</source>
    <translation>关闭</translation>
  </message>
  <message>
    <source>Close this answer</source>
    <translation>关闭此结果</translation>
  </message>
  <message>
    <source>Close this message</source>
    <translation>关闭此消息</translation>
  </message>
  <message>
    <source>Colour</source>
    <translation>颜色</translation>
  </message>
  <message>
    <source>Colour burn</source>
    <translation>颜色加深</translation>
  </message>
  <message>
    <source>Colour dodge</source>
    <translation>颜色减淡</translation>
  </message>
  <message>
    <source>Colour picker</source>
    <translation>取色器</translation>
  </message>
  <message>
    <source>Connecting…</source>
    <translation>正在连接…</translation>
  </message>
  <message>
    <source>ControlNet</source>
    <translation>ControlNet</translation>
  </message>
  <message>
    <source>Copy</source>
    <translation>复制</translation>
  </message>
  <message>
    <source>Copy the picture</source>
    <translation>复制画面</translation>
  </message>
  <message>
    <source>Copy this message</source>
    <translation>复制此消息</translation>
  </message>
  <message>
    <source>Cosine of CLIP: 1 is the same, 0 has nothing in common</source>
    <translation>CLIP 余弦相似度：1 表示相同，0 表示毫无共同之处</translation>
  </message>
  <message>
    <source>Create</source>
    <translation>创作</translation>
  </message>
  <message>
    <source>Darken</source>
    <translation>变暗</translation>
  </message>
  <message>
    <source>Decoder</source>
    <translation>解码器</translation>
  </message>
  <message>
    <source>Default colours</source>
    <translation>默认颜色</translation>
  </message>
  <message>
    <source>Delete layer</source>
    <translation>删除图层</translation>
  </message>
  <message>
    <source>Delete the layer (Delete)</source>
    <translation>删除图层 (Delete)</translation>
  </message>
  <message>
    <source>Depth</source>
    <translation>深度</translation>
  </message>
  <message>
    <source>Depth or edges as a layer</source>
    <translation>深度或边缘图层</translation>
  </message>
  <message>
    <source>Describe</source>
    <translation>描述</translation>
  </message>
  <message>
    <source>Describe a picture</source>
    <translation>描述图片</translation>
  </message>
  <message>
    <source>Describe what should be there (Alt+A)</source>
    <translation>描述想要的内容 (Alt+A)</translation>
  </message>
  <message>
    <source>Description</source>
    <translation>描述</translation>
  </message>
  <message>
    <source>Difference</source>
    <translation>差值</translation>
  </message>
  <message>
    <source>Discard</source>
    <translation>放弃</translation>
  </message>
  <message>
    <source>Drag the view</source>
    <translation>拖动视图</translation>
  </message>
  <message>
    <source>Drag to move the active layer. Shift keeps to one direction.</source>
    <translation>拖动以移动当前图层，按住 Shift 只沿一个方向移动。</translation>
  </message>
  <message>
    <source>Drag to move the view. The wheel zooms; Space is the hand at any time.</source>
    <translation>拖动以移动视图。滚轮缩放，任何时候按住空格都是抓手。</translation>
  </message>
  <message>
    <source>Drop a picture here</source>
    <translation>把图片拖到这里</translation>
  </message>
  <message>
    <source>Duplicate layer</source>
    <translation>复制图层</translation>
  </message>
  <message>
    <source>Duplicate the layer (Ctrl+J)</source>
    <translation>复制图层 (Ctrl+J)</translation>
  </message>
  <message>
    <source>Edges</source>
    <translation>边缘</translation>
  </message>
  <message>
    <source>Edit</source>
    <translation>编辑</translation>
  </message>
  <message>
    <source>Edit by words</source>
    <translation>文字编辑</translation>
  </message>
  <message>
    <source>Enlarge</source>
    <translation>放大图片</translation>
  </message>
  <message>
    <source>Enlarge picture</source>
    <translation>放大图片</translation>
  </message>
  <message>
    <source>Enlarges the canvas and all layers, and paints new detail on top</source>
    <translation>放大画布和所有图层，并在上面画出新细节</translation>
  </message>
  <message>
    <source>Erase</source>
    <translation>擦除</translation>
  </message>
  <message>
    <source>Erase from the active layer</source>
    <translation>擦除当前图层的内容</translation>
  </message>
  <message>
    <source>Erase from the mask</source>
    <translation>擦除蒙版</translation>
  </message>
  <message>
    <source>Erase layer mask</source>
    <translation>擦除图层蒙版</translation>
  </message>
  <message>
    <source>Eraser</source>
    <translation>橡皮擦</translation>
  </message>
  <message>
    <source>Everything that the service painted and still keeps, about a week of work</source>
    <translation>服务绘制过并仍保留的全部图片，约一周的作品</translation>
  </message>
  <message>
    <source>Expand</source>
    <translation>扩展</translation>
  </message>
  <message>
    <source>Export</source>
    <translation>导出</translation>
  </message>
  <message>
    <source>Export a picture</source>
    <translation>导出图片</translation>
  </message>
  <message>
    <source>Export a picture…</source>
    <translation>导出图片…</translation>
  </message>
  <message>
    <source>Export {name}</source>
    <translation>导出 {name}</translation>
  </message>
  <message>
    <source>Exported {name}</source>
    <translation>已导出 {name}</translation>
  </message>
  <message>
    <source>Fetching the result</source>
    <translation>取回结果</translation>
  </message>
  <message>
    <source>Files in the folder loras, each with its strength</source>
    <translation>loras 文件夹中的文件及各自强度</translation>
  </message>
  <message>
    <source>Fill</source>
    <translation>填充</translation>
  </message>
  <message>
    <source>Fill in</source>
    <translation>填补</translation>
  </message>
  <message>
    <source>Fill the mask</source>
    <translation>填充蒙版</translation>
  </message>
  <message>
    <source>Find results similar to the layer</source>
    <translation>查找与图层相似的结果</translation>
  </message>
  <message>
    <source>Find similar</source>
    <translation>查找相似</translation>
  </message>
  <message>
    <source>Find similar results</source>
    <translation>查找相似的结果</translation>
  </message>
  <message>
    <source>Finds what you name in the picture and makes it the mask</source>
    <translation>在图片中找到你所说的东西，并把它设为蒙版</translation>
  </message>
  <message>
    <source>Fit</source>
    <translation>适合窗口</translation>
  </message>
  <message>
    <source>Fit the picture into the window (Ctrl+0)</source>
    <translation>使画面适合窗口 (Ctrl+0)</translation>
  </message>
  <message>
    <source>Follow</source>
    <translation>跟随</translation>
  </message>
  <message>
    <source>Follow a map</source>
    <translation>跟随控制图</translation>
  </message>
  <message>
    <source>Follow this map</source>
    <translation>跟随此图</translation>
  </message>
  <message>
    <source>Generate</source>
    <translation>生成</translation>
  </message>
  <message>
    <source>Generate, refine or fill</source>
    <translation>生成、润饰或填充</translation>
  </message>
  <message>
    <source>Go to the prompt</source>
    <translation>转到提示词</translation>
  </message>
  <message>
    <source>Grey</source>
    <translation>灰度</translation>
  </message>
  <message>
    <source>Group isolation</source>
    <translation>组隔离</translation>
  </message>
  <message>
    <source>Group layers</source>
    <translation>编组图层</translation>
  </message>
  <message>
    <source>Grow by 8 px</source>
    <translation>扩大 8 像素</translation>
  </message>
  <message>
    <source>Grow the mask</source>
    <translation>扩大蒙版</translation>
  </message>
  <message>
    <source>Guidance</source>
    <translation>引导</translation>
  </message>
  <message>
    <source>Hand</source>
    <translation>抓手</translation>
  </message>
  <message>
    <source>Hard light</source>
    <translation>强光</translation>
  </message>
  <message>
    <source>Hardness</source>
    <translation>硬度</translation>
  </message>
  <message>
    <source>Height</source>
    <translation>高度</translation>
  </message>
  <message>
    <source>Hide layer</source>
    <translation>隐藏图层</translation>
  </message>
  <message>
    <source>How many times as wide and high</source>
    <translation>宽和高放大的倍数</translation>
  </message>
  <message>
    <source>How much a description says</source>
    <translation>描述的详细程度</translation>
  </message>
  <message>
    <source>How much may be painted anew; more invents more</source>
    <translation>可重画的程度；越高新内容越多</translation>
  </message>
  <message>
    <source>How much may change: 100 % forgets what was there</source>
    <translation>允许改变多少：100 % 完全不看原来的内容</translation>
  </message>
  <message>
    <source>How much this picture counts: 100 % is what the model was made for</source>
    <translation>此图片的影响程度：100 % 为模型的设计值</translation>
  </message>
  <message>
    <source>How steps are taken</source>
    <translation>步进方式</translation>
  </message>
  <message>
    <source>How strictly a ControlNet is followed</source>
    <translation>跟随 ControlNet 的严格程度</translation>
  </message>
  <message>
    <source>Hue</source>
    <translation>色相</translation>
  </message>
  <message>
    <source>Image to image</source>
    <translation>图生图</translation>
  </message>
  <message>
    <source>Insert result</source>
    <translation>插入结果</translation>
  </message>
  <message>
    <source>Invert layer mask</source>
    <translation>反转图层蒙版</translation>
  </message>
  <message>
    <source>Invert the mask</source>
    <translation>反转蒙版</translation>
  </message>
  <message>
    <source>Invert the mask (Shift+V)</source>
    <translation>反转蒙版 (Shift+V)</translation>
  </message>
  <message>
    <source>It is a map already</source>
    <translation>它已是控制图</translation>
  </message>
  <message>
    <source>It was too long to be written to its end.</source>
    <translation>内容过长，未能写完。</translation>
  </message>
  <message>
    <source>Its outline</source>
    <translation>它的轮廓</translation>
  </message>
  <message>
    <source>Keep what did not change</source>
    <translation>保留未改动处</translation>
  </message>
  <message>
    <source>Keys</source>
    <translation>快捷键</translation>
  </message>
  <message>
    <source>Landscape 3:2</source>
    <translation>横幅 3:2</translation>
  </message>
  <message>
    <source>Language</source>
    <translation>语言</translation>
  </message>
  <message>
    <source>Larger brush</source>
    <translation>增大画笔</translation>
  </message>
  <message>
    <source>Layer</source>
    <translation>图层</translation>
  </message>
  <message>
    <source>Layer opacity</source>
    <translation>图层不透明度</translation>
  </message>
  <message>
    <source>Layer {number}</source>
    <translation>图层 {number}</translation>
  </message>
  <message>
    <source>Layer: {name}</source>
    <translation>图层：{name}</translation>
  </message>
  <message>
    <source>Layers</source>
    <translation>图层</translation>
  </message>
  <message>
    <source>Layers with a mask are regions</source>
    <translation>带蒙版的图层作为区域</translation>
  </message>
  <message>
    <source>Lays the result back onto the picture and hides it where nothing changed, by a layer mask</source>
    <translation>将结果对齐到原图，并用图层蒙版隐藏未改动的部分</translation>
  </message>
  <message>
    <source>Leave this picture out</source>
    <translation>去掉此图片</translation>
  </message>
  <message>
    <source>Length</source>
    <translation>长度</translation>
  </message>
  <message>
    <source>Lighten</source>
    <translation>变亮</translation>
  </message>
  <message>
    <source>Like</source>
    <translation>相似于</translation>
  </message>
  <message>
    <source>LoRAs</source>
    <translation>LoRA</translation>
  </message>
  <message>
    <source>Loading the model</source>
    <translation>加载模型</translation>
  </message>
  <message>
    <source>Loading the model: {percent} %</source>
    <translation>正在加载模型：{percent} %</translation>
  </message>
  <message>
    <source>Lock layer</source>
    <translation>锁定图层</translation>
  </message>
  <message>
    <source>Lock or unlock</source>
    <translation>锁定或解锁</translation>
  </message>
  <message>
    <source>Lock or unlock the layer</source>
    <translation>锁定或解锁图层</translation>
  </message>
  <message>
    <source>Looking</source>
    <translation>分析中</translation>
  </message>
  <message>
    <source>Looks through earlier results for those most like a picture</source>
    <translation>在以前的结果中查找与图片最相似的</translation>
  </message>
  <message>
    <source>Low quality</source>
    <translation>低画质</translation>
  </message>
  <message>
    <source>Luminosity</source>
    <translation>明度</translation>
  </message>
  <message>
    <source>Make the map</source>
    <translation>生成控制图</translation>
  </message>
  <message>
    <source>Makes a map of a picture as a new layer, for a result to follow</source>
    <translation>把图片的控制图做成新图层，供生成时跟随</translation>
  </message>
  <message>
    <source>Makes a new picture along the edges or the depth of another</source>
    <translation>沿着另一张图片的边缘或深度画一张新图</translation>
  </message>
  <message>
    <source>Makes a new picture like others</source>
    <translation>画一张与所选图片相似的新图</translation>
  </message>
  <message>
    <source>Makes a new picture on the whole canvas</source>
    <translation>在整个画布上生成新画面</translation>
  </message>
  <message>
    <source>Map</source>
    <translation>控制图</translation>
  </message>
  <message>
    <source>Mark what the model repaints</source>
    <translation>标出要由模型重绘的地方</translation>
  </message>
  <message>
    <source>Mask brush</source>
    <translation>蒙版画笔</translation>
  </message>
  <message>
    <source>Mask by clicks</source>
    <translation>点选蒙版</translation>
  </message>
  <message>
    <source>Mask by words</source>
    <translation>按文字选择蒙版</translation>
  </message>
  <message>
    <source>Mask eraser</source>
    <translation>蒙版橡皮擦</translation>
  </message>
  <message>
    <source>Mask everything</source>
    <translation>全部选入蒙版</translation>
  </message>
  <message>
    <source>Meaning</source>
    <translation>意图</translation>
  </message>
  <message>
    <source>Merge down</source>
    <translation>向下合并</translation>
  </message>
  <message>
    <source>Model</source>
    <translation>模型</translation>
  </message>
  <message>
    <source>More</source>
    <translation>更多</translation>
  </message>
  <message>
    <source>More pictures that your words may refer to</source>
    <translation>文字中可以提到的其他图片</translation>
  </message>
  <message>
    <source>Move</source>
    <translation>移动</translation>
  </message>
  <message>
    <source>Move down</source>
    <translation>下移</translation>
  </message>
  <message>
    <source>Move layer</source>
    <translation>移动图层</translation>
  </message>
  <message>
    <source>Move pixels</source>
    <translation>移动像素</translation>
  </message>
  <message>
    <source>Move the active layer</source>
    <translation>移动当前图层</translation>
  </message>
  <message>
    <source>Move the layer down (Ctrl+[)</source>
    <translation>下移图层 (Ctrl+[)</translation>
  </message>
  <message>
    <source>Move the layer up (Ctrl+])</source>
    <translation>上移图层 (Ctrl+])</translation>
  </message>
  <message>
    <source>Move up</source>
    <translation>上移</translation>
  </message>
  <message>
    <source>Multiply</source>
    <translation>正片叠底</translation>
  </message>
  <message>
    <source>New canvas</source>
    <translation>新建画布</translation>
  </message>
  <message>
    <source>New canvas…</source>
    <translation>新建画布…</translation>
  </message>
  <message>
    <source>New detail</source>
    <translation>新细节</translation>
  </message>
  <message>
    <source>New layer</source>
    <translation>新建图层</translation>
  </message>
  <message>
    <source>No model follows this by itself; name a ControlNet</source>
    <translation>没有模型能单独跟随此类控制图；请指定 ControlNet</translation>
  </message>
  <message>
    <source>Normal</source>
    <translation>正常</translation>
  </message>
  <message>
    <source>Of</source>
    <translation>来源</translation>
  </message>
  <message>
    <source>Off: edges and depth are found in the picture</source>
    <translation>关闭时：从图片中提取边缘和深度</translation>
  </message>
  <message>
    <source>Opacity</source>
    <translation>不透明度</translation>
  </message>
  <message>
    <source>Open</source>
    <translation>打开</translation>
  </message>
  <message>
    <source>Open a picture…</source>
    <translation>打开图片…</translation>
  </message>
  <message>
    <source>Open or start a picture first</source>
    <translation>请先打开或新建一幅画面</translation>
  </message>
  <message>
    <source>OpenRaster project ({endings})</source>
    <translation>OpenRaster 项目 ({endings})</translation>
  </message>
  <message>
    <source>Open…</source>
    <translation>打开…</translation>
  </message>
  <message>
    <source>Overlay</source>
    <translation>叠加</translation>
  </message>
  <message>
    <source>PNG, JPEG, WebP or an OpenRaster project</source>
    <translation>PNG、JPEG、WebP 或 OpenRaster 项目</translation>
  </message>
  <message>
    <source>Paint</source>
    <translation>绘画</translation>
  </message>
  <message>
    <source>Paint a mask first</source>
    <translation>请先绘制蒙版</translation>
  </message>
  <message>
    <source>Paint colour</source>
    <translation>绘画颜色</translation>
  </message>
  <message>
    <source>Paint colour (click to choose)</source>
    <translation>绘画颜色（点击选择）</translation>
  </message>
  <message>
    <source>Paint layer mask</source>
    <translation>绘制图层蒙版</translation>
  </message>
  <message>
    <source>Paint on the active layer</source>
    <translation>在当前图层上绘画</translation>
  </message>
  <message>
    <source>Paint the mask</source>
    <translation>绘制蒙版</translation>
  </message>
  <message>
    <source>Painting</source>
    <translation>绘制中</translation>
  </message>
  <message>
    <source>Painting, {count} waiting</source>
    <translation>正在绘制，{count} 个任务等待中</translation>
  </message>
  <message>
    <source>Painting: {percent} %</source>
    <translation>正在绘制：{percent} %</translation>
  </message>
  <message>
    <source>Paste</source>
    <translation>粘贴</translation>
  </message>
  <message>
    <source>Paste as a layer</source>
    <translation>粘贴为图层</translation>
  </message>
  <message>
    <source>Pasted</source>
    <translation>粘贴的图片</translation>
  </message>
  <message>
    <source>Pen pressure changes the opacity</source>
    <translation>笔压改变不透明度</translation>
  </message>
  <message>
    <source>Pen pressure changes the size</source>
    <translation>笔压改变大小</translation>
  </message>
  <message>
    <source>Phrases</source>
    <translation>短语</translation>
  </message>
  <message>
    <source>Picture</source>
    <translation>图片</translation>
  </message>
  <message>
    <source>Pictures</source>
    <translation>图片</translation>
  </message>
  <message>
    <source>Pictures ({endings})</source>
    <translation>图片 ({endings})</translation>
  </message>
  <message>
    <source>Pictures and projects ({endings})</source>
    <translation>图片和项目 ({endings})</translation>
  </message>
  <message>
    <source>Place as a layer</source>
    <translation>置入为图层</translation>
  </message>
  <message>
    <source>Place as a layer…</source>
    <translation>置入为图层…</translation>
  </message>
  <message>
    <source>Portrait 2:3</source>
    <translation>竖幅 2:3</translation>
  </message>
  <message>
    <source>Pose</source>
    <translation>姿态</translation>
  </message>
  <message>
    <source>Preparing</source>
    <translation>准备中</translation>
  </message>
  <message>
    <source>Preset</source>
    <translation>预设</translation>
  </message>
  <message>
    <source>Prompt</source>
    <translation>提示词</translation>
  </message>
  <message>
    <source>Prompt, seed and model of visible generated layers, and that AI had a part in it.</source>
    <translation>可见生成图层的提示词、种子和模型，以及“有 AI 参与”的标记。</translation>
  </message>
  <message>
    <source>Quality</source>
    <translation>质量</translation>
  </message>
  <message>
    <source>Question</source>
    <translation>问题</translation>
  </message>
  <message>
    <source>Quit</source>
    <translation>退出</translation>
  </message>
  <message>
    <source>Ready</source>
    <translation>就绪</translation>
  </message>
  <message>
    <source>Ready again. The engine had died: {detail}</source>
    <translation>已重新就绪。引擎曾中断：{detail}</translation>
  </message>
  <message>
    <source>Redo</source>
    <translation>重做</translation>
  </message>
  <message>
    <source>Redo (Ctrl+Shift+Z)</source>
    <translation>重做 (Ctrl+Shift+Z)</translation>
  </message>
  <message>
    <source>References</source>
    <translation>参考图</translation>
  </message>
  <message>
    <source>Refine</source>
    <translation>润饰</translation>
  </message>
  <message>
    <source>Remove</source>
    <translation>移除</translation>
  </message>
  <message>
    <source>Remove layer mask</source>
    <translation>移除图层蒙版</translation>
  </message>
  <message>
    <source>Rename layer</source>
    <translation>重命名图层</translation>
  </message>
  <message>
    <source>Repaints where the mask is, nothing else</source>
    <translation>只重绘蒙版所在之处，其余不变</translation>
  </message>
  <message>
    <source>Replace background</source>
    <translation>替换背景</translation>
  </message>
  <message>
    <source>Replaces the mask</source>
    <translation>替换蒙版</translation>
  </message>
  <message>
    <source>Resize canvas</source>
    <translation>调整画布大小</translation>
  </message>
  <message>
    <source>Restore</source>
    <translation>恢复</translation>
  </message>
  <message>
    <source>Result</source>
    <translation>结果</translation>
  </message>
  <message>
    <source>Reworks the whole picture, keeping what the strength leaves</source>
    <translation>重绘整幅画面，强度越低保留越多</translation>
  </message>
  <message>
    <source>Saturation</source>
    <translation>饱和度</translation>
  </message>
  <message>
    <source>Save</source>
    <translation>保存</translation>
  </message>
  <message>
    <source>Save as…</source>
    <translation>另存为…</translation>
  </message>
  <message>
    <source>Save the changes to {title}?</source>
    <translation>保存对“{title}”的更改吗？</translation>
  </message>
  <message>
    <source>Save the project</source>
    <translation>保存项目</translation>
  </message>
  <message>
    <source>Saved.</source>
    <translation>已保存。</translation>
  </message>
  <message>
    <source>Say it in other words.</source>
    <translation>请换一种说法。</translation>
  </message>
  <message>
    <source>Says how well each picture shows your words, and ranks the pictures</source>
    <translation>给出每张图片与文字的符合程度，并排出名次</translation>
  </message>
  <message>
    <source>Says in words what a picture shows, or answers a question</source>
    <translation>用文字说明图片的内容，或回答问题</translation>
  </message>
  <message>
    <source>Score</source>
    <translation>评分</translation>
  </message>
  <message>
    <source>Score against the prompt</source>
    <translation>按提示词评分</translation>
  </message>
  <message>
    <source>Screen</source>
    <translation>滤色</translation>
  </message>
  <message>
    <source>Seed</source>
    <translation>种子</translation>
  </message>
  <message>
    <source>Seed, steps, what is unwanted, LoRAs</source>
    <translation>种子、步数、不想要的内容、LoRA</translation>
  </message>
  <message>
    <source>Select</source>
    <translation>选择</translation>
  </message>
  <message>
    <source>Select by words</source>
    <translation>按文字选择</translation>
  </message>
  <message>
    <source>Shape</source>
    <translation>形状</translation>
  </message>
  <message>
    <source>Show layer</source>
    <translation>显示图层</translation>
  </message>
  <message>
    <source>Show or hide</source>
    <translation>显示或隐藏</translation>
  </message>
  <message>
    <source>Show the mask as a colour</source>
    <translation>以颜色显示蒙版</translation>
  </message>
  <message>
    <source>Shrink by 8 px</source>
    <translation>缩小 8 像素</translation>
  </message>
  <message>
    <source>Shrink the mask</source>
    <translation>缩小蒙版</translation>
  </message>
  <message>
    <source>Similar results</source>
    <translation>相似的结果</translation>
  </message>
  <message>
    <source>Size</source>
    <translation>大小</translation>
  </message>
  <message>
    <source>Size of the brush ([ and ])</source>
    <translation>画笔大小（[ 和 ]）</translation>
  </message>
  <message>
    <source>Small square</source>
    <translation>小方形</translation>
  </message>
  <message>
    <source>Smaller brush</source>
    <translation>减小画笔</translation>
  </message>
  <message>
    <source>Soft edges</source>
    <translation>柔和边缘</translation>
  </message>
  <message>
    <source>Soft light</source>
    <translation>柔光</translation>
  </message>
  <message>
    <source>Solver</source>
    <translation>求解器</translation>
  </message>
  <message>
    <source>Square</source>
    <translation>方形</translation>
  </message>
  <message>
    <source>Starting the engine…</source>
    <translation>正在启动引擎…</translation>
  </message>
  <message>
    <source>Step cache</source>
    <translation>步骤缓存</translation>
  </message>
  <message>
    <source>Step {step} of {total}</source>
    <translation>第 {step} 步，共 {total} 步</translation>
  </message>
  <message>
    <source>Steps</source>
    <translation>步数</translation>
  </message>
  <message>
    <source>Steps that change little take over the one before: faster, a little less exact</source>
    <translation>变化小的步骤沿用上一步：更快，略欠精确</translation>
  </message>
  <message>
    <source>Strength</source>
    <translation>强度</translation>
  </message>
  <message>
    <source>Strictness</source>
    <translation>严格程度</translation>
  </message>
  <message>
    <source>Style</source>
    <translation>风格</translation>
  </message>
  <message>
    <source>Swap colours</source>
    <translation>交换颜色</translation>
  </message>
  <message>
    <source>Swap the two colours (X)</source>
    <translation>交换两种颜色 (X)</translation>
  </message>
  <message>
    <source>Take a colour from the picture</source>
    <translation>从画面中取色</translation>
  </message>
  <message>
    <source>Take away from the mask</source>
    <translation>从蒙版中擦去</translation>
  </message>
  <message>
    <source>Takes away from the mask</source>
    <translation>从蒙版中减去</translation>
  </message>
  <message>
    <source>Task</source>
    <translation>任务</translation>
  </message>
  <message>
    <source>Text to image</source>
    <translation>文生图</translation>
  </message>
  <message>
    <source>The canvas changed its size meanwhile.</source>
    <translation>画布的尺寸在此期间改变了。</translation>
  </message>
  <message>
    <source>The description can be put here</source>
    <translation>描述可以放到这里</translation>
  </message>
  <message>
    <source>The engine died; the next job starts a new one. {detail}</source>
    <translation>引擎已中断，下一个任务会启动新的引擎。{detail}</translation>
  </message>
  <message>
    <source>The map is the layer “{name}”.</source>
    <translation>控制图已成为图层“{name}”。</translation>
  </message>
  <message>
    <source>The prompt is longer than CLIP reads; its phrases say more than its score.</source>
    <translation>提示词超出了 CLIP 能读取的长度；各短语的分数比总分更有意义。</translation>
  </message>
  <message>
    <source>The service does not answer; trying again. {detail}</source>
    <translation>服务没有响应，正在重试。{detail}</translation>
  </message>
  <message>
    <source>The service is slow to answer</source>
    <translation>服务响应缓慢</translation>
  </message>
  <message>
    <source>There is no picture to paste.</source>
    <translation>剪贴板里没有图片。</translation>
  </message>
  <message>
    <source>There is nothing like it.</source>
    <translation>没有相似的图片。</translation>
  </message>
  <message>
    <source>There is nothing on the canvas yet</source>
    <translation>画布上还没有内容</translation>
  </message>
  <message>
    <source>Tile</source>
    <translation>分块</translation>
  </message>
  <message>
    <source>Tool options</source>
    <translation>工具选项</translation>
  </message>
  <message>
    <source>Tools</source>
    <translation>工具</translation>
  </message>
  <message>
    <source>Transparent</source>
    <translation>透明</translation>
  </message>
  <message>
    <source>True guidance</source>
    <translation>真实引导</translation>
  </message>
  <message>
    <source>Undo</source>
    <translation>撤销</translation>
  </message>
  <message>
    <source>Undo (Ctrl+Z)</source>
    <translation>撤销 (Ctrl+Z)</translation>
  </message>
  <message>
    <source>Unlock layer</source>
    <translation>解锁图层</translation>
  </message>
  <message>
    <source>Unsaved changes</source>
    <translation>未保存的更改</translation>
  </message>
  <message>
    <source>Unsaved work: {title}</source>
    <translation>未保存的工作：{title}</translation>
  </message>
  <message>
    <source>Untitled</source>
    <translation>未命名</translation>
  </message>
  <message>
    <source>Unwanted</source>
    <translation>不想要</translation>
  </message>
  <message>
    <source>Upscaler</source>
    <translation>放大模型</translation>
  </message>
  <message>
    <source>Use as prompt</source>
    <translation>用作提示词</translation>
  </message>
  <message>
    <source>Variant {number} of {name}</source>
    <translation>变体 {number}：{name}</translation>
  </message>
  <message>
    <source>Variants</source>
    <translation>变体</translation>
  </message>
  <message>
    <source>Variants of the active layer</source>
    <translation>当前图层的变体</translation>
  </message>
  <message>
    <source>Vary</source>
    <translation>变化</translation>
  </message>
  <message>
    <source>Vary and style</source>
    <translation>变化与风格</translation>
  </message>
  <message>
    <source>Waiting</source>
    <translation>等待中</translation>
  </message>
  <message>
    <source>Weight of your words against what is unwanted</source>
    <translation>您的文字相对于不想要内容的权重</translation>
  </message>
  <message>
    <source>What becomes of the mask that is there</source>
    <translation>现有的蒙版如何处理</translation>
  </message>
  <message>
    <source>What else to score, with commas between; by default the prompt's parts</source>
    <translation>要评分的其他内容，用逗号分隔；默认是提示词的各个部分</translation>
  </message>
  <message>
    <source>What fits</source>
    <translation>自动选择</translation>
  </message>
  <message>
    <source>What is meant by the mask: decides what lies under it and how far it reaches</source>
    <translation>蒙版的意图：决定其下先填什么以及影响多远</translation>
  </message>
  <message>
    <source>What is scored</source>
    <translation>给哪些图片评分</translation>
  </message>
  <message>
    <source>What is visible</source>
    <translation>可见内容</translation>
  </message>
  <message>
    <source>What makes the picture in the end</source>
    <translation>最后由什么生成图片</translation>
  </message>
  <message>
    <source>What of it is masked</source>
    <translation>选入蒙版的部分</translation>
  </message>
  <message>
    <source>What should be masked? For example: the red cup</source>
    <translation>要选入蒙版的是什么？例如：红色的杯子</translation>
  </message>
  <message>
    <source>What should be there?</source>
    <translation>这里应该是什么？</translation>
  </message>
  <message>
    <source>What should change? For example: make it night</source>
    <translation>要改变什么？例如：变成夜晚</translation>
  </message>
  <message>
    <source>What should not be there; every step then takes twice the time</source>
    <translation>不应出现的内容；每步耗时加倍</translation>
  </message>
  <message>
    <source>What should the picture show?</source>
    <translation>画面里应该有什么？</translation>
  </message>
  <message>
    <source>What should the pictures show? Parts with commas are scored one by one</source>
    <translation>图片应该画的是什么？用逗号分开的部分会逐个评分</translation>
  </message>
  <message>
    <source>What the map shows</source>
    <translation>控制图表示什么</translation>
  </message>
  <message>
    <source>What the picture shows; helps with fine detail</source>
    <translation>图片的内容；有助于细节</translation>
  </message>
  <message>
    <source>What the result follows</source>
    <translation>结果跟随什么</translation>
  </message>
  <message>
    <source>What to answer about the picture</source>
    <translation>要回答的关于图片的问题</translation>
  </message>
  <message>
    <source>What to do; by default what fits the picture and the mask</source>
    <translation>要做什么；默认按图片和蒙版选择</translation>
  </message>
  <message>
    <source>Where a layer's mask is white, its name is what should be there</source>
    <translation>图层蒙版为白色处，以图层名作为该处内容</translation>
  </message>
  <message>
    <source>Which picture: what is visible, a layer, or a file</source>
    <translation>哪张图片：可见内容、图层或文件</translation>
  </message>
  <message>
    <source>White</source>
    <translation>白色</translation>
  </message>
  <message>
    <source>Wide 16:9</source>
    <translation>宽幅 16:9</translation>
  </message>
  <message>
    <source>Width</source>
    <translation>宽度</translation>
  </message>
  <message>
    <source>Without saving they are lost.</source>
    <translation>不保存就会丢失。</translation>
  </message>
  <message>
    <source>Words are not needed here</source>
    <translation>这里不需要文字</translation>
  </message>
  <message>
    <source>Words are optional here</source>
    <translation>此处可不写文字</translation>
  </message>
  <message>
    <source>Write down what should be masked</source>
    <translation>请写下要选入蒙版的内容</translation>
  </message>
  <message>
    <source>Write down what the pictures should show</source>
    <translation>请写下图片应该画的内容</translation>
  </message>
  <message>
    <source>Write how it was made into the file</source>
    <translation>将制作信息写入文件</translation>
  </message>
  <message>
    <source>Zoom in</source>
    <translation>放大</translation>
  </message>
  <message>
    <source>Zoom out</source>
    <translation>缩小</translation>
  </message>
  <message>
    <source>auto</source>
    <translation>自动</translation>
  </message>
  <message>
    <source>careful</source>
    <translation>谨慎</translation>
  </message>
  <message>
    <source>fast</source>
    <translation>快速</translation>
  </message>
  <message>
    <source>fast, softer</source>
    <translation>快速，较柔和</translation>
  </message>
  <message>
    <source>full</source>
    <translation>完整</translation>
  </message>
  <message>
    <source>ink:0.8, oil paint</source>
    <translation>ink:0.8, oil paint</translation>
  </message>
  <message>
    <source>none</source>
    <translation>无</translation>
  </message>
  <message>
    <source>none; the picture is described</source>
    <translation>无，将描述图片</translation>
  </message>
  <message>
    <source>nothing</source>
    <translation>无</translation>
  </message>
  <message>
    <source>off</source>
    <translation>关闭</translation>
  </message>
  <message>
    <source>plain resampling</source>
    <translation>普通重采样</translation>
  </message>
  <message>
    <source>random</source>
    <translation>随机</translation>
  </message>
  <message>
    <source>the model itself</source>
    <translation>模型本身</translation>
  </message>
  <message>
    <source>the parts of the prompt</source>
    <translation>提示词的各个部分</translation>
  </message>
  <message>
    <source>{count} before it</source>
    <translation>前面还有 {count} 个</translation>
  </message>
  <message>
    <source>{count} more</source>
    <translation>还有 {count} 条</translation>
  </message>
  <message>
    <source>{model} cannot do this; choose {others}</source>
    <translation>{model} 无法执行此任务；请选择 {others}</translation>
  </message>
  <message>
    <source>{model} cannot do this; get {others} first</source>
    <translation>{model} 无法执行此任务；请先获取 {others}</translation>
  </message>
  <message>
    <source>“{words}” was not found.</source>
    <translation>没有找到“{words}”。</translation>
  </message>
  <message>
    <source>What fits: {model}</source>
    <translation>自动选择：{model}</translation>
  </message>
  <message>
    <source>No model that is here can do this; get {others} first</source>
    <translation>已安装的模型均无法执行此任务；请先获取 {others}</translation>
  </message>
  <message>
    <source>Bundled: an illustration model for emoji-like scenes of everyday things</source>
    <translation>内置模型：仅擅长绘制日常事物的表情符号风格插画</translation>
  </message>
</context>
</TS>
